// SPDX-License-Identifier: MIT
package lossd;

import com.sun.net.httpserver.HttpServer;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.SocketTimeoutException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLException;
import javax.net.ssl.TrustManagerFactory;
import lossd.Lossd.LossdException;
import lossd.Lossd.Tensor;

/** The client against a running lossd (LOSSD, or ../../build/lossd), and against servers that misbehave. */
final class LossdTest {
    private static final List<Process> RUNNING = new ArrayList<>();
    private static String url;

    private LossdTest() {
    }

    private static String start(String... flags) throws IOException {
        final List<String> command = new ArrayList<>();
        command.add(System.getenv().getOrDefault("LOSSD", "../../build/lossd"));
        command.addAll(List.of("--listen", "127.0.0.1:0"));
        command.addAll(Arrays.asList(flags));
        final Process process = new ProcessBuilder(command).start();
        RUNNING.add(process);
        final BufferedReader said = new BufferedReader(new InputStreamReader(process.getErrorStream()));
        for (String line; (line = said.readLine()) != null;) {
            final int at = line.indexOf(" url=");
            if (at >= 0) {
                new Thread(() -> drop(said)).start(); // or it would wait for a reader
                return line.substring(at + 5).split(" ")[0];
            }
        }
        throw new IOException("lossd did not start");
    }

    private static void drop(BufferedReader lines) {
        try {
            while (lines.readLine() != null) {
                continue;
            }
        } catch (IOException e) {
            // closed
        }
    }

    private static void check(boolean ok, String what) {
        if (!ok) {
            throw new AssertionError(what);
        }
    }

    private static <T extends Throwable> T fails(Class<T> type, Callable<?> call) throws Exception {
        try {
            call.call();
        } catch (Throwable thrown) {
            check(type.isInstance(thrown), thrown + " is no " + type.getSimpleName());
            return type.cast(thrown);
        }
        throw new AssertionError("no " + type.getSimpleName());
    }

    private static Tensor tensor(Map<String, Object> t) {
        final List<Object> data = Lossd.Json.list(t.get("data"));
        final int[] shape = Lossd.Json.list(t.get("shape")).stream().mapToInt(s -> ((Long) s).intValue()).toArray();
        final double[] values = data.stream()
                .mapToDouble(v -> v instanceof Boolean b ? (b ? 1 : 0) : ((Number) v).doubleValue()).toArray();
        final byte[] bytes = new byte[values.length];
        final float[] floats = new float[values.length];
        for (int i = 0; i < values.length; i++) {
            bytes[i] = (byte) values[i];
            floats[i] = (float) values[i];
        }
        return switch ((String) t.get("dtype")) {
            case "f64" -> Tensor.of(values, shape);
            case "f32" -> Tensor.of(floats, shape);
            case "i64" -> Tensor.of(data.stream().mapToLong(v -> ((Number) v).longValue()).toArray(), shape);
            case "i32" -> Tensor.of(data.stream().mapToInt(v -> ((Number) v).intValue()).toArray(), shape);
            case "u8" -> new Tensor(Lossd.Dtype.U8, shape, bytes);
            case "bool" -> new Tensor(Lossd.Dtype.BOOL, shape, bytes);
            default -> throw new AssertionError(t.get("dtype"));
        };
    }

    private static void everySharedCase() throws Exception {
        final Lossd lossd = new Lossd(url);
        final Map<String, Boolean> transforms = new LinkedHashMap<>();
        for (String name : lossd.losses()) {
            transforms.put(name, ((String) lossd.describe(name).get("path")).startsWith("/v1/transforms/"));
        }
        check(transforms.get("mask_tokens") && !transforms.get("mse"), "paths");
        int values = 0;
        for (String line : Files.readAllLines(Path.of("../cases.jsonl"))) {
            final Map<String, Object> one = Lossd.Json.map(Lossd.Json.read(line));
            final Map<String, Tensor> inputs = new LinkedHashMap<>();
            Lossd.Json.map(one.get("inputs")).forEach((name, t) -> inputs.put(name, tensor(Lossd.Json.map(t))));
            final Map<String, Object> wanted = Lossd.Json.map(one.get("outputs"));
            final String loss = (String) one.get("loss");
            final Map<String, Object> options = Lossd.Json.map(one.get("options"));
            final String[] names = wanted.keySet().toArray(new String[0]);
            final Map<String, Tensor> got = transforms.get(loss) ? lossd.transform(loss, inputs, options, names)
                    : lossd.evaluate(loss, inputs, options, names);
            check(List.copyOf(got.keySet()).equals(List.of(names)), one.get("name") + ": " + got.keySet());
            final double tolerance = ((Number) one.get("tolerance")).doubleValue();
            for (Map.Entry<String, Object> want : wanted.entrySet()) {
                final Tensor t = got.get(want.getKey());
                final Map<String, Object> w = Lossd.Json.map(want.getValue());
                check(Arrays.stream(t.shape()).boxed().map(Integer::longValue).toList().equals(w.get("shape")),
                        one.get("name") + ": the shape of " + want.getKey());
                final List<Object> data = Lossd.Json.list(w.get("data"));
                check(data.size() == t.size(), one.get("name") + ": the size of " + want.getKey());
                for (int i = 0; i < t.size(); i++, values++) {
                    final double x = ((Number) data.get(i)).doubleValue();
                    check(Math.abs(t.get(i) - x) <= tolerance * Math.max(1, Math.abs(x)),
                            one.get("name") + ": " + want.getKey() + "[" + i + "] is " + t.get(i) + ", not " + x);
                }
            }
        }
        check(values > 1000, "only " + values + " values were compared");
    }

    private static void errorsCarryCodeAndPlace() throws Exception {
        final Lossd lossd = new Lossd(url);
        final Map<String, Tensor> inputs = Map.of("logits", Tensor.of(new float[] {1, 2}, 1, 2),
                "targets", Tensor.of(new long[] {5}, 1));
        final LossdException e = fails(LossdException.class, () -> lossd.evaluate("cross_entropy", inputs, Map.of()));
        check(e.status == 422 && e.code.equals("target_out_of_range") && e.input.equals("targets")
                && e.index.equals(List.of(0L)) && e.detail.startsWith("targets[0] is 5") && !e.requestId.isEmpty(),
                e.toString());
        check(fails(LossdException.class, () -> lossd.evaluate("cross_entrop", inputs, Map.of())).status == 404, "404");
        check(fails(LossdException.class, () -> lossd.evaluate("mse?reduction=sum", Map.of(), Map.of())).status == 404,
                "a name is a name");
        fails(IllegalArgumentException.class, () -> Tensor.of(new float[2], 3));
        fails(IllegalArgumentException.class, () -> new Tensor(Lossd.Dtype.F16, new int[] {2}, new float[2]));
        for (String wrong : List.of("unix:lossd.sock", "ftp://127.0.0.1", "127.0.0.1:8080", "http:///v1")) {
            final IllegalArgumentException no = fails(IllegalArgumentException.class, () -> new Lossd(wrong));
            check(no.getMessage().contains("unix:/path") || wrong.startsWith("127"), no.getMessage());
        }
        fails(IllegalArgumentException.class,
                () -> new Lossd(url, "key\r\nX-Key: b", Duration.ofSeconds(1), 0, null));
    }

    private static void elementTypesAndOptions() throws Exception {
        final Lossd lossd = new Lossd(url);
        final Tensor targets = Tensor.of(new long[] {1, 2}, 2);
        final Tensor exact = Tensor.of(new double[] {-1.5, 0.25, 2, 0.5, -0.75, 3}, 2, 3);
        final Tensor want = lossd.evaluate("cross_entropy", Map.of("logits", exact, "targets", targets), Map.of())
                .get("grad.logits");
        final short[] f16 = {(short) 0xbe00, 0x3400, 0x4000, 0x3800, (short) 0xba00, 0x4200};
        final short[] bf16 = {(short) 0xbfc0, 0x3e80, 0x4000, 0x3f00, (short) 0xbf40, 0x4040};
        for (Lossd.Dtype dtype : List.of(Lossd.Dtype.F16, Lossd.Dtype.BF16)) {
            final Tensor logits = new Tensor(dtype, new int[] {2, 3}, dtype == Lossd.Dtype.F16 ? f16 : bf16);
            final Tensor got = lossd.evaluate("cross_entropy", Map.of("logits", logits, "targets", targets), Map.of())
                    .get("grad.logits");
            check(got.dtype() == dtype, "the type of the gradient");
            for (int i = 0; i < 6; i++) {
                check(got.get(i) == logits.get(i) || Math.abs(got.floats()[i] - want.get(i)) < 1e-2, dtype + " " + i);
                check(logits.get(i) == exact.get(i), dtype + " " + logits.get(i));
            }
        }
        final Tensor odd = new Tensor(Lossd.Dtype.F16, new int[] {4}, new short[] {0x7c00, 0x7e00, 1, (short) 0x8000});
        check(odd.get(0) == Double.POSITIVE_INFINITY && Double.isNaN(odd.get(1)) && odd.get(2) == Math.scalb(1.0, -24)
                && 1 / odd.get(3) == Double.NEGATIVE_INFINITY, "f16");
        final Map<String, Tensor> pair = Map.of("a", Tensor.of(new float[] {1, 2}, 2), "b", Tensor.of(new float[2], 2));
        final List<?> parts = List.of(Map.of("loss", "mse"), Map.of("loss", "huber", "weight", 0.5));
        check(lossd.evaluate("composite", pair, Map.of("parts", parts)).get("loss").item() == 3, "composite");
        final Map<String, Object> options = new LinkedHashMap<>();
        options.put("num_items", null);
        options.put("reduction", "none");
        check(lossd.evaluate("mse", pair, options, "loss").get("loss").size() == 2, "an option that is off");
        for (Object seven : List.of(7, 7L, 7.0, List.of(7), new long[] {7}, new double[] {7},
                Tensor.of(new long[] {7}), Tensor.of(new float[] {7}, 1), Tensor.of(new int[] {7}))) {
            final Map<String, Tensor> got = lossd.evaluate("mse", pair, Map.of("num_items", seven), "loss");
            check(got.get("loss").item() == (float) (5.0 / 7), "num_items as " + seven.getClass());
        }
        final Map<String, Tensor> none = lossd.evaluate("mse", pair, Map.of("num_items", new int[] {0}), "loss");
        check(none.get("loss").item() == 0, "num_items 0");
        final Map<String, Tensor> narrow = lossd.evaluate("mse", pair, Map.of(), "loss", "grad.a:f16", "grad.b:bf16");
        check(narrow.get("grad.a").dtype() == Lossd.Dtype.F16 && narrow.get("grad.a").get(1) == 2, "narrower: f16");
        check(narrow.get("grad.b").dtype() == Lossd.Dtype.BF16 && narrow.get("grad.b").get(1) == -2, "narrower: bf16");
        final Map<String, Tensor> colons = Map.of("x:0", pair.get("a"), "b", pair.get("b"));
        final List<?> renamed = List.of(Map.of("loss", "mse", "inputs", Map.of("a", "x:0")));
        final Map<String, Tensor> named = lossd.evaluate("composite", colons, Map.of("parts", renamed), "grad.x:0");
        check(named.get("grad.x:0").get(1) == 2, "a name with a colon");
        check(lossd.losses().size() > 30 && lossd.describe("mse").get("formula") instanceof String, "descriptions");
    }

    private static void manyAtOnce() throws Exception {
        final Lossd lossd = new Lossd(url);
        final List<CompletableFuture<Map<String, Tensor>>> calls = new ArrayList<>();
        for (int i = 0; i < 200; i++) {
            final Map<String, Tensor> inputs =
                    Map.of("a", Tensor.of(new float[] {i}, 1), "b", Tensor.of(new float[1], 1));
            calls.add(lossd.evaluateAsync("mse", inputs, Map.of(), "loss"));
        }
        for (int i = 0; i < 200; i++) {
            check(calls.get(i).get().get("loss").item() == (double) (i * i), "call " + i);
        }
    }

    private static HttpServer fake(int refusals, String after, List<String> seen) throws IOException {
        final HttpServer server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
        server.createContext("/", exchange -> {
            seen.add(exchange.getRequestHeaders().getFirst("X-Request-Timeout"));
            exchange.getResponseHeaders().add("Retry-After", after);
            final byte[] body = (seen.size() <= refusals ? "busy" : "{\"losses\":[]}").getBytes();
            exchange.sendResponseHeaders(seen.size() <= refusals ? 503 : 200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        server.start();
        return server;
    }

    private static void fullForAWhile() throws Exception {
        for (int refusals : new int[] {3, 100}) {
            final List<String> seen = new ArrayList<>();
            final HttpServer server = fake(refusals, "0", seen);
            final Lossd lossd = new Lossd("http://127.0.0.1:" + server.getAddress().getPort());
            if (refusals == 3) {
                check(lossd.losses().isEmpty() && seen.size() == 4, "after three refusals");
            } else {
                final LossdException e = fails(LossdException.class, lossd::losses);
                check(e.status == 503 && e.detail.equals("busy") && seen.size() == 5, e + ", tries: " + seen.size());
            }
            check(seen.stream().allMatch(ms -> Integer.parseInt(ms) > 0 && Integer.parseInt(ms) <= 30_000), "" + seen);
            server.stop(0);
        }
        final List<String> seen = new ArrayList<>();
        final HttpServer server = fake(100, "99999999999", seen);
        fails(LossdException.class, new Lossd("http://127.0.0.1:" + server.getAddress().getPort())::losses);
        check(seen.size() == 1, "it did not wait for ever, nor try at once: " + seen.size());
        server.stop(0);
    }

    /** Answers every request with these bytes, a connection each; null: never. */
    private static ServerSocket answering(byte[] reply, List<Socket> connections) throws IOException {
        return answering(reply, connections, false);
    }

    /** The same, and closes them. */
    private static ServerSocket answering(byte[] reply, List<Socket> connections, boolean isLast) throws IOException {
        final ServerSocket socket = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
        final Thread thread = new Thread(() -> {
            try {
                for (;;) {
                    final Socket s = socket.accept();
                    connections.add(s);
                    if (reply != null) {
                        final InputStream in = s.getInputStream();
                        for (int state = 0; state < 4;) { // up to the empty line
                            final int c = in.read();
                            state = c == (state % 2 == 0 ? '\r' : '\n') ? state + 1 : 0;
                        }
                        s.getOutputStream().write(reply);
                        s.getOutputStream().flush();
                        if (isLast) {
                            s.shutdownOutput();
                        }
                    }
                }
            } catch (IOException e) {
                // closed
            }
        });
        thread.setDaemon(true);
        thread.start();
        return socket;
    }

    private static byte[] http(byte[] body) {
        final byte[] head = ("HTTP/1.1 200 OK\r\nContent-Length: " + body.length + "\r\nConnection: close\r\n\r\n")
                .getBytes(StandardCharsets.US_ASCII);
        return ByteBuffer.allocate(head.length + body.length).put(head).put(body).array();
    }

    private static byte[] safetensors(long length, String header, int data) {
        final byte[] text = header.getBytes(StandardCharsets.UTF_8);
        return ByteBuffer.allocate(8 + text.length + data).order(ByteOrder.LITTLE_ENDIAN).putLong(length).put(text)
                .array();
    }

    private static void hostileReplies() throws Exception {
        final String entry = "\"loss\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}";
        final String good = "{" + entry + "}";
        final List<byte[]> bodies = List.of(new byte[0], new byte[7], safetensors(-1, good, 4),
                safetensors(Long.MAX_VALUE, good, 4), safetensors(Integer.MAX_VALUE, good, 4),
                safetensors(good.length() + 5, good, 4), safetensors(good.length(), good, 3),
                safetensors(3, "[1]", 0), safetensors(8, "{\"a\":1}}", 0), safetensors(2, "{\"", 0),
                of(good.replace("[0,4]", "[4,0]")), of(good.replace("[0,4]", "[-4,0]")),
                of(good.replace("[0,4]", "[0,99999999999]")), of(good.replace("[]", "[2]")),
                of(good.replace("[]", "[-1]")), of(good.replace("[]", "[65536,65536,65536,65536]")),
                of(good.replace("F32", "F31")), of(good.replace("F32", "F64")), of(good.replace("[0,4]", "[0]")),
                of(good.replace("[0,4]", "[0.0,4]")), of(good.replace("[0,4]", "[00,4]")),
                of(good.replace("[0,4]", "[0,4],\"shape\":[]")), of(good.replace("loss", "l\\oss")),
                of(good.replace("loss", "l\noss")), of("{" + entry + "," + entry.replace("loss", "overlap") + "}"),
                safetensors(good.length(), good, 5), of(good.replace("[0,4]", "[1,5]")), of("[".repeat(5000)));
        for (byte[] body : bodies) {
            final ServerSocket server = answering(http(body), new ArrayList<>());
            final Lossd lossd = new Lossd("http://127.0.0.1:" + server.getLocalPort());
            fails(IOException.class, () -> lossd.evaluate("mse", Map.of(), Map.of()));
            server.close();
        }
        final ServerSocket server = answering(http(of(good)), new ArrayList<>());
        final Lossd lossd = new Lossd("http://127.0.0.1:" + server.getLocalPort());
        check(lossd.evaluate("mse", Map.of(), Map.of()).get("loss").item() == 0, "a good one");
        fails(IOException.class, () -> lossd.evaluate("mse", Map.of(), Map.of(), "loss", "count"));
        server.close();
        for (String list : List.of("null", "{}", "{\"losses\":3}", "{\"losses\":[null]}", "<html>")) {
            final ServerSocket listing = answering(http(list.getBytes(StandardCharsets.UTF_8)), new ArrayList<>());
            fails(IOException.class, new Lossd("http://127.0.0.1:" + listing.getLocalPort())::losses);
            listing.close();
        }
    }

    /** Problems that are none still end the call, and in time. */
    private static void hostileRefusals() throws Exception {
        for (String problem : List.of("null", "[]", "{\"index\":[null]}", "{\"input\":3}",
                "{\"detail\":\"\\u+123\"}", "")) {
            final byte[] reply = http(problem.getBytes(StandardCharsets.UTF_8));
            reply[9] = '4';
            final ServerSocket server = answering(reply, new ArrayList<>());
            final LossdException e = fails(LossdException.class, () -> {
                try {
                    return new Lossd("http://127.0.0.1:" + server.getLocalPort())
                            .evaluateAsync("mse", Map.of(), Map.of()).get(5, TimeUnit.SECONDS);
                } catch (ExecutionException thrown) {
                    throw (Exception) thrown.getCause();
                }
            });
            check(e.status == 400 && e.detail.equals(problem), problem + ": " + e);
            server.close();
        }
    }

    private static byte[] of(String header) {
        return safetensors(header.length(), header, 4);
    }

    private static void timeAndCancelling() throws Exception {
        final List<Socket> connections = new ArrayList<>();
        final byte[] half = Arrays.copyOf(http(new byte[100]), 80); // a head, and not all of the body
        for (byte[] reply : new byte[][] {null, half}) {
            final ServerSocket server = answering(reply, connections);
            final Lossd lossd =
                    new Lossd("http://127.0.0.1:" + server.getLocalPort(), null, Duration.ofMillis(300), 4, null);
            final long begun = System.nanoTime();
            fails(SocketTimeoutException.class, lossd::losses);
            check(System.nanoTime() - begun < TimeUnit.SECONDS.toNanos(3), "it took too long");
            check(!lossd.ready(), "ready");
            server.close();
        }
        check(new Lossd(url, null, Duration.ofSeconds(Long.MAX_VALUE), 0, null).ready(), "as long as it takes");
        final ServerSocket server = answering(null, connections);
        final Lossd lossd = new Lossd("http://127.0.0.1:" + server.getLocalPort());
        final CompletableFuture<?> call = lossd.evaluateAsync("mse", Map.of(), Map.of());
        while (connections.size() < 5) {
            Thread.sleep(1);
        }
        call.cancel(true);
        ends(connections.get(4));
        final Thread waiting = Thread.currentThread();
        final Thread other = new Thread(() -> {
            while (connections.size() < 6) {
                Thread.onSpinWait();
            }
            waiting.interrupt();
        });
        other.start();
        fails(InterruptedException.class, () -> lossd.evaluate("mse", Map.of(), Map.of()));
        other.join();
        ends(connections.get(5));
        server.close();
    }

    /** The other side closes the connection, and soon. */
    private static void ends(Socket socket) throws IOException {
        socket.setSoTimeout(5000);
        try {
            final InputStream in = socket.getInputStream();
            while (in.read() >= 0) { // what was sent, then the end
                continue;
            }
        } catch (SocketTimeoutException e) {
            throw new AssertionError("the connection of a call that was ended stays open", e);
        } catch (IOException e) {
            // reset: closed as well
        }
    }

    /** A kept connection that was closed: the call goes out once more. */
    private static void closedConnections() throws Exception {
        final Lossd lossd = new Lossd(start("--idle-timeout", "1s"));
        check(lossd.ready(), "ready");
        final Map<String, Tensor> pair = Map.of("a", Tensor.of(new float[] {3}, 1), "b", Tensor.of(new float[1], 1));
        for (int i = 0; i < 5; i++) { // about when the connection is closed
            check(lossd.evaluate("mse", pair, Map.of()).get("loss").item() == 9, "call " + i);
            Thread.sleep(990 + 10 * i);
        }
        final ServerSocket server = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
        final Lossd other = new Lossd("http://127.0.0.1:" + server.getLocalPort());
        final CompletableFuture<?> call = other.evaluateAsync("mse", pair, Map.of());
        try (Socket s = server.accept()) { // a new connection that is closed is no kept one
            s.getInputStream().read();
        }
        final Throwable thrown = fails(ExecutionException.class, () -> call.get(5, TimeUnit.SECONDS)).getCause();
        check(thrown instanceof IOException && thrown.getMessage().contains("closed before a reply"), "" + thrown);
        server.close();
        final IOException gone = fails(IOException.class, () -> other.evaluate("mse", pair, Map.of()));
        check(gone.getMessage().startsWith("lossd at http://127.0.0.1:" + server.getLocalPort()), gone.getMessage());
        lossd.close();
        check(lossd.evaluate("mse", pair, Map.of()).get("loss").item() == 9, "after it was closed");
    }

    /** lossd does not read all of a body that it refuses: its answer is there before the body is sent. */
    private static void refusedWhileSending() throws Exception {
        final Lossd lossd = new Lossd(start("--max-body", "1MiB", "--drain-max", "2MiB"));
        final Map<String, Tensor> huge =
                Map.of("a", Tensor.of(new float[8 << 20], 8 << 20), "b", Tensor.of(new float[8 << 20], 8 << 20));
        for (int i = 0; i < 5; i++) {
            check(lossd.ready(), "a connection is kept");
            final LossdException large = fails(LossdException.class, () -> lossd.evaluate("mse", huge, Map.of()));
            check(large.code.equals("too_large"), large.code);
            final LossdException none = fails(LossdException.class, () -> lossd.evaluate("none", huge, Map.of()));
            check(none.status == 404, "" + none.status);
        }
    }

    /** What changes something is not sent again, whatever became of it. */
    private static void changesAreSentOnce() throws Exception {
        final List<String> seen = Collections.synchronizedList(new ArrayList<>());
        final ServerSocket server = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
        final Thread thread = new Thread(() -> {
            try {
                for (;;) {
                    final Socket s = server.accept();
                    new Thread(() -> serveGets(s, seen)).start();
                }
            } catch (IOException e) {
                // closed
            }
        });
        thread.start();
        final Lossd client = new Lossd("http://127.0.0.1:" + server.getLocalPort());
        for (int i = 0; i < 2; i++) {
            check(client.ready(), "a connection is kept");
            fails(IOException.class, () -> {
                client.forget("head");
                return null;
            });
            check(client.ready(), "a connection is kept");
            fails(IOException.class, () -> {
                client.keep("head", Map.of("w", Tensor.of(new float[1], 1)), false);
                return null;
            });
        }
        server.close();
        check(seen.equals(List.of("DELETE", "PUT", "DELETE", "PUT")), "" + seen);
    }

    /** Answers what begins with GET, and closes the connection at any other request, whose method it notes. */
    private static void serveGets(Socket s, List<String> seen) {
        try (s) {
            final BufferedReader in = new BufferedReader(new InputStreamReader(s.getInputStream()));
            for (String line; (line = in.readLine()) != null;) {
                final String method = line.split(" ")[0];
                while (!in.readLine().isEmpty()) {
                    continue;
                }
                if (!method.equals("GET")) {
                    seen.add(method);
                    return;
                }
                s.getOutputStream().write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".getBytes());
            }
        } catch (IOException e) {
            // closed
        }
    }

    /** Bodies as a proxy may send them, and as they come. */
    private static void bodiesOfProxies() throws Exception {
        final String entry = "{\"loss\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}";
        final String body = new String(of(entry), StandardCharsets.ISO_8859_1);
        final String chunks = "5;x=y\r\n" + body.substring(0, 5) + "\r\n" + Integer.toHexString(body.length() - 5)
                + "\r\n" + body.substring(5) + "\r\n0\r\nA: b\r\n\r\n";
        final String length = "HTTP/1.1 200 OK\r\ncontent-length:  " + body.length() + " \r\n\r\n";
        final Map<String, Boolean> replies = new LinkedHashMap<>();
        replies.put("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks, true);
        replies.put("HTTP/1.1 100 Continue\r\n\r\n" + length + body, true);
        replies.put("HTTP/1.0 200 OK\r\n\r\n" + body, true);
        replies.put("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n" + body, false);
        replies.put("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n" + body, false);
        replies.put("HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + body, false);
        replies.put("SSH-2.0-x\r\n", false);
        replies.put("HTTP/1.1 200 OK\r\nA: " + "b".repeat(100_000) + "\r\n\r\n" + body, false);
        for (Map.Entry<String, Boolean> reply : replies.entrySet()) {
            final List<Socket> connections = new ArrayList<>();
            final byte[] bytes = reply.getKey().getBytes(StandardCharsets.ISO_8859_1);
            final ServerSocket server = answering(bytes, connections, true);
            final Lossd lossd = new Lossd("http://127.0.0.1:" + server.getLocalPort() + "/prefix/");
            final Callable<Map<String, Tensor>> call = () -> lossd.evaluate("mse", Map.of(), Map.of());
            final String what = reply.getKey().lines().findFirst().get();
            if (reply.getValue()) {
                check(call.call().get("loss").item() == 0, what);
            } else {
                check(fails(IOException.class, call).getMessage().startsWith("lossd at http"), what);
            }
            server.close();
        }
    }

    /** Tensors larger than any buffer, of elements that do not fill one. */
    private static void largeOnes(String where) throws Exception {
        try (Lossd lossd = new Lossd(where)) {
            for (int count : new int[] {1, 7, 131_071, 300_001}) {
                final double[] wide = new double[count];
                final float[] a = new float[count];
                final short[] narrow = new short[count];
                for (int i = 0; i < count; i++) {
                    a[i] = i % 101;
                    wide[i] = a[i];
                    narrow[i] = (short) (Float.floatToIntBits(a[i]) >> 16);
                }
                final Map<Tensor, Tensor> pairs = new LinkedHashMap<>();
                pairs.put(Tensor.of(wide, count), Tensor.of(new double[count], count));
                pairs.put(Tensor.of(a, count), Tensor.of(new float[count], count));
                pairs.put(new Tensor(Lossd.Dtype.BF16, new int[] {count}, narrow),
                        new Tensor(Lossd.Dtype.BF16, new int[] {count}, new short[count]));
                for (Map.Entry<Tensor, Tensor> pair : pairs.entrySet()) {
                    final Tensor t = pair.getKey();
                    final Tensor slope = lossd.evaluate("mse", Map.of("a", t, "b", pair.getValue()),
                            Map.of("reduction", "sum")).get("grad.a");
                    for (int i = 0; i < count; i++) {
                        check(slope.get(i) == 2 * t.get(i), t.dtype() + " " + count + ": " + i);
                    }
                }
            }
        }
    }

    private static void overUnixSockets() throws Exception {
        final Path folder = Files.createTempDirectory("lossd");
        final Path socket = folder.resolve("s");
        start("--listen", "unix:" + socket);
        while (!Files.exists(socket)) {
            Thread.sleep(1);
        }
        largeOnes("unix:" + socket);
        final String gone = fails(IOException.class, new Lossd("unix:" + folder.resolve("none"))::losses).getMessage();
        check(gone.startsWith("lossd at unix:"), gone);
        Files.delete(socket);
        Files.delete(folder);
    }

    private static void overTls() throws Exception {
        final Path folder = Files.createTempDirectory("lossd");
        final String key = folder.resolve("key.pem").toString();
        final Path certificate = folder.resolve("cert.pem");
        final int made;
        try {
            made = new ProcessBuilder("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                    "-nodes", "-keyout", key, "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
                    "-out", certificate.toString(), "-days", "1").start().waitFor();
        } catch (IOException e) {
            System.out.println("left out, there is no openssl:");
            return;
        }
        check(made == 0, "openssl");
        final String secure = start("--tls-cert", certificate.toString(), "--tls-key", key);
        final KeyStore trusted = KeyStore.getInstance(KeyStore.getDefaultType());
        trusted.load(null);
        trusted.setCertificateEntry("it", CertificateFactory.getInstance("X.509")
                .generateCertificate(Files.newInputStream(certificate)));
        final TrustManagerFactory managers = TrustManagerFactory.getInstance("PKIX");
        managers.init(trusted);
        final SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, managers.getTrustManagers(), null);
        try (Lossd lossd = new Lossd(secure, null, Duration.ofSeconds(5), 0, context)) {
            final float[] values = new float[100_001];
            values[100_000] = 3;
            final Map<String, Tensor> pair = Map.of("a", Tensor.of(values, values.length), "b",
                    Tensor.of(new float[values.length], values.length));
            for (int i = 0; i < 2; i++) {
                final Tensor slope = lossd.evaluate("mse", pair, Map.of("reduction", "sum")).get("grad.a");
                check(slope.get(100_000) == 6 && slope.get(0) == 0, "over TLS");
            }
        }
        final IOException unknown = fails(IOException.class, new Lossd(secure)::losses);
        check(unknown.getCause() instanceof SSLException, "an unknown authority: " + unknown);
        final String other = secure.replace("127.0.0.1", "localhost");
        final Lossd named = new Lossd(other, null, Duration.ofSeconds(5), 0, context);
        check(fails(IOException.class, named::losses).getCause() instanceof SSLException, "another's certificate");
    }

    private static void keys() throws Exception {
        final Path file = Files.createTempFile("lossd", "keys");
        Files.writeString(file, "a-key-of-some-length\n");
        final String keyed = start("--api-key-file", file.toString());
        for (String key : new String[] {null, "another-key-of-length", "a-key-of-some-length"}) {
            final Lossd lossd = new Lossd(keyed, key, Duration.ofSeconds(5), 0, null);
            if ("a-key-of-some-length".equals(key)) {
                check(lossd.losses().size() > 30, "with the key");
            } else {
                check(fails(LossdException.class, lossd::losses).status == (key == null ? 401 : 403), "key " + key);
            }
        }
        Files.delete(file);
    }

    private interface Test {
        void run() throws Exception;
    }

    private static void residentTensors() throws Exception {
        final Lossd client = new Lossd(url);
        final Map<String, Tensor> inputs = Map.of("logits", Tensor.of(new float[] {1, 2, 3}, 1, 3),
                "targets", Tensor.of(new long[] {1}, 1));
        final Tensor weight = Tensor.of(new float[] {1, 2, 3}, 3);
        final Map<String, Tensor> carried = new LinkedHashMap<>(inputs);
        carried.put("class_weight", weight);
        final double want = client.evaluate("cross_entropy", carried, Map.of()).get("loss").item();
        client.keep("head", Map.of("w", weight), false);
        check(fails(LossdException.class, () -> {
            client.keep("head", Map.of("w", weight), false);
            return null;
        }).code.equals("region_exists"), "a name in use");
        client.keep("head", Map.of("w", weight), true);
        check(client.resident().size() == 1, "what is resident");
        final Map<String, String> options = Map.ofEntries(Lossd.resident("class_weight", "head/w"));
        check(client.evaluate("cross_entropy", inputs, options).get("loss").item() == want, "a resident input");
        client.forget("head");
        final LossdException gone =
                fails(LossdException.class, () -> client.evaluate("cross_entropy", inputs, options));
        check(gone.code.equals("region_invalid") && gone.input.equals("class_weight"), "after it was forgotten");
    }

    public static void main(String[] arguments) throws Exception {
        final Map<String, Test> tests = new LinkedHashMap<>();
        tests.put("every shared case", LossdTest::everySharedCase);
        tests.put("errors carry code and place", LossdTest::errorsCarryCodeAndPlace);
        tests.put("element types and options", LossdTest::elementTypesAndOptions);
        tests.put("many at once", LossdTest::manyAtOnce);
        tests.put("full for a while, and for ever", LossdTest::fullForAWhile);
        tests.put("hostile replies", LossdTest::hostileReplies);
        tests.put("hostile refusals", LossdTest::hostileRefusals);
        tests.put("time and cancelling", LossdTest::timeAndCancelling);
        tests.put("closed connections", LossdTest::closedConnections);
        tests.put("refused while sending", LossdTest::refusedWhileSending);
        tests.put("changes are sent once", LossdTest::changesAreSentOnce);
        tests.put("bodies of proxies", LossdTest::bodiesOfProxies);
        tests.put("large ones", () -> largeOnes(url));
        tests.put("over Unix sockets", LossdTest::overUnixSockets);
        tests.put("over TLS", LossdTest::overTls);
        tests.put("keys", LossdTest::keys);
        tests.put("resident tensors", LossdTest::residentTensors);
        int failed = 0;
        try {
            url = start();
            for (Map.Entry<String, Test> test : tests.entrySet()) {
                try {
                    test.getValue().run();
                    System.out.println("passed: " + test.getKey());
                } catch (Exception | AssertionError e) {
                    failed++;
                    System.out.println("FAILED: " + test.getKey() + ": " + e);
                }
            }
        } finally {
            RUNNING.forEach(Process::destroy);
        }
        System.out.println(tests.size() - failed + " passed, " + failed + " failed");
        System.exit(failed == 0 ? 0 : 1);
    }
}
