import java.net.StandardProtocolFamily;
import java.net.UnixDomainSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.util.Arrays;

/** An echo server on blocking channels and a client on a selector. */
public class Echo {
    public static void main(String[] a) throws Exception {
        UnixDomainSocketAddress addr = UnixDomainSocketAddress.of(a[1]);
        if (a[0].equals("server")) {
            serve(addr);
        } else {
            client(addr, Integer.parseInt(a[2]), Integer.parseInt(a[3]));
        }
    }

    static void serve(UnixDomainSocketAddress addr) throws Exception {
        ServerSocketChannel server = ServerSocketChannel.open(StandardProtocolFamily.UNIX);
        server.bind(addr, 128);
        while (true) {
            SocketChannel c = server.accept();
            new Thread(() -> {
                try (c) {
                    ByteBuffer b = ByteBuffer.allocate(65536);
                    while (c.read(b) >= 0) {
                        b.flip();
                        while (b.hasRemaining()) {
                            c.write(b);
                        }
                        b.clear();
                    }
                    c.shutdownOutput();
                } catch (Exception e) {
                    System.err.println(e);
                }
            }).start();
        }
    }

    record Call(ByteBuffer out, ByteBuffer in) {}

    static void client(UnixDomainSocketAddress addr, int conns, int n) throws Exception {
        Selector selector = Selector.open();
        String peer = "";
        for (int c = 0; c < conns; c++) {
            SocketChannel ch = SocketChannel.open(StandardProtocolFamily.UNIX);
            ch.configureBlocking(false);
            byte[] want = new byte[n];
            for (int i = 0; i < n; i++) {
                want[i] = (byte) (c + i % 251);
            }
            if (!ch.connect(addr)) {
                throw new Exception("connect is pending");
            }
            peer = ch.getRemoteAddress().toString();
            ch.register(selector, SelectionKey.OP_READ | SelectionKey.OP_WRITE,
                new Call(ByteBuffer.wrap(want), ByteBuffer.allocate(n + 1)));
        }
        for (int left = conns; left > 0;) {
            selector.select();
            for (SelectionKey k : selector.selectedKeys()) {
                SocketChannel ch = (SocketChannel) k.channel();
                Call call = (Call) k.attachment();
                if (k.isWritable()) {
                    ch.write(call.out);
                    if (!call.out.hasRemaining()) {
                        ch.shutdownOutput();
                        k.interestOps(SelectionKey.OP_READ);
                    }
                }
                if (k.isReadable() && ch.read(call.in) < 0) {
                    byte[] got = Arrays.copyOf(call.in.array(), call.in.position());
                    if (!Arrays.equals(got, call.out.array())) {
                        throw new Exception(got.length + " bytes of " + n + " came back");
                    }
                    ch.close();
                    left--;
                }
            }
            selector.selectedKeys().clear();
        }
        System.out.println(conns + " " + n + " " + peer);
    }
}
