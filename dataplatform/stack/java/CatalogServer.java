import jakarta.servlet.ServletException;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletRequestWrapper;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.util.HashMap;
import java.util.Map;
import org.apache.iceberg.CatalogProperties;
import org.apache.iceberg.jdbc.JdbcCatalog;
import org.apache.iceberg.rest.RESTCatalogAdapter;
import org.apache.iceberg.rest.RESTCatalogServlet;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.servlet.ServletContextHandler;
import org.eclipse.jetty.servlet.ServletHolder;

/**
 * Iceberg's REST catalog over PostgreSQL: one process, one context for each origin of data.
 *
 * <p>It knows no users, so it listens on loopback only. Arguments: the port, then NAME=WAREHOUSE for
 * each catalog. Addresses and secrets are in the environment, where no list of processes shows them.
 */
public final class CatalogServer {
  private CatalogServer() {}

  public static void main(String[] arguments) throws Exception {
    int port = Integer.parseInt(arguments[0]);
    Server server = new Server(new InetSocketAddress("127.0.0.1", port));
    ServletContextHandler contexts = new ServletContextHandler(ServletContextHandler.NO_SESSIONS);
    for (int index = 1; index < arguments.length; index++) {
      String[] named = arguments[index].split("=", 2);
      contexts.addServlet(new ServletHolder(servlet(named[0], named[1])), "/" + named[0] + "/*");
    }
    server.setHandler(contexts);
    server.setStopAtShutdown(true);
    server.start();
    server.join();
  }

  private static RESTCatalogServlet servlet(String name, String warehouse) {
    JdbcCatalog catalog = new JdbcCatalog();
    catalog.initialize(name, properties(warehouse));
    return new Prefixed("/" + name, new RESTCatalogAdapter(catalog));
  }

  private static Map<String, String> properties(String warehouse) {
    Map<String, String> environment = System.getenv();
    Map<String, String> properties = new HashMap<>();
    properties.put(CatalogProperties.URI, environment.get("CATALOG_JDBC_URI"));
    properties.put("jdbc.user", environment.get("CATALOG_JDBC_USER"));
    properties.put("jdbc.password", environment.get("CATALOG_JDBC_PASSWORD"));
    properties.put("jdbc.schema-version", "V1");
    // What a connection says after PostgreSQL was restarted: without it the pool keeps dead ones.
    properties.put("retryable_status_codes", "57P01,57P02,57P03,08001");
    properties.put(CatalogProperties.WAREHOUSE_LOCATION, warehouse);
    properties.put(CatalogProperties.FILE_IO_IMPL, "org.apache.iceberg.aws.s3.S3FileIO");
    properties.put("http-client.type", "urlconnection");
    properties.put("s3.endpoint", environment.get("CATALOG_S3_ENDPOINT"));
    properties.put("client.region", environment.get("CATALOG_S3_REGION"));
    properties.put("s3.path-style-access", "true");
    properties.put("s3.access-key-id", environment.get("CATALOG_S3_ACCESS_KEY"));
    properties.put("s3.secret-access-key", environment.get("CATALOG_S3_SECRET_KEY"));
    return properties;
  }

  /** Takes its prefix off the path, since the servlet reads the whole of it as a route. */
  private static final class Prefixed extends RESTCatalogServlet {
    private final String prefix;

    Prefixed(String prefix, RESTCatalogAdapter adapter) {
      super(adapter);
      this.prefix = prefix;
    }

    @Override
    protected void service(HttpServletRequest request, HttpServletResponse response)
        throws ServletException, IOException {
      super.service(
          new HttpServletRequestWrapper(request) {
            @Override
            public String getRequestURI() {
              return super.getRequestURI().substring(prefix.length());
            }
          },
          response);
    }
  }
}
