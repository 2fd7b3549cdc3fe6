import com.amazonaws.services.dynamodbv2.local.server.LocalDynamoDBRequestHandler;
import com.amazonaws.services.dynamodbv2.local.server.LocalDynamoDBServerHandler;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;

/**
 * DynamoDB Local on 127.0.0.1 only, for as long as stdin stays open. Run from source by local/dynamodb_local.py.
 *
 * <p>The stock server listens on every interface, and reports its start to AWS unless told not to. Neither can happen
 * here: AWS's request handler, which is the whole database, sits behind a Jetty of our own.
 */
final class Loopback {
    private static final boolean IN_MEMORY = true;
    private static final String NO_DATABASE_PATH = null;
    private static final boolean SHARED_DB = true; // one database, whatever region and key the client names
    private static final boolean DELAY_TRANSIENT_STATUSES = false; // a new table is ACTIVE at once
    private static final String NO_CORS = null;

    public static void main(String[] args) throws Exception {
        var database = new LocalDynamoDBRequestHandler(
                0, IN_MEMORY, NO_DATABASE_PATH, SHARED_DB, DELAY_TRANSIENT_STATUSES);
        var address = new InetSocketAddress(InetAddress.getByName("127.0.0.1"), Integer.parseInt(args[0]));
        var server = new Server(address);
        server.setHandler(new LocalDynamoDBServerHandler(database, NO_CORS));
        server.start();
        System.out.println("listening on " + ((ServerConnector) server.getConnectors()[0]).getLocalPort());
        while (System.in.read() != -1) {
            // Only the end of stdin says anything: whoever started this is gone, or done with it.
        }
        System.exit(0); // not halt(): exit also removes the copy of the sqlite library in the temporary folder
    }
}
