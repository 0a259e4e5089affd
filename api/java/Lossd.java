// SPDX-License-Identifier: MIT
package lossd;

import java.io.ByteArrayOutputStream;
import java.io.Closeable;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.SocketTimeoutException;
import java.net.StandardProtocolFamily;
import java.net.StandardSocketOptions;
import java.net.URI;
import java.net.URLEncoder;
import java.net.UnixDomainSocketAddress;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.Channels;
import java.nio.channels.ReadableByteChannel;
import java.nio.channels.SocketChannel;
import java.nio.channels.WritableByteChannel;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentLinkedDeque;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.FutureTask;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.SSLSocketFactory;

/**
 * A client of lossd in one file, for Java 17 and later, with nothing but the JDK. May be used by many threads; its
 * connections are kept until it is closed.
 *
 * <p>A call takes at most {@code timeout}, tries included, and lossd is told of it. Where lossd is full (503) a call is
 * tried again after the time it asks for. An evaluation has no effect but its reply, so that one whose kept connection
 * lossd has closed meanwhile is sent over another.
 */
public final class Lossd implements AutoCloseable {
    private static final String MEDIA = "application/x-safetensors";
    private static final Duration LONG_IDLE = Duration.ofMinutes(1);

    // A call is carried by the thread that waits for it. To end it is to close its connection: this clock does that
    // when it is late, the JDK where the thread is interrupted.
    private static final ScheduledThreadPoolExecutor CLOCK = new ScheduledThreadPoolExecutor(1, Lossd::daemon);
    private static final ExecutorService WAITING = Executors.newCachedThreadPool(Lossd::daemon);

    static {
        CLOCK.setRemoveOnCancelPolicy(true);
    }

    private final String url;
    private final URI uri;
    private final String authority; // of Host
    private final String prefix; // of paths
    private final String apiKey;
    private final Duration timeout;
    private final int retries;
    private final SSLContext context;
    private final ConcurrentLinkedDeque<Line> idle = new ConcurrentLinkedDeque<>();

    /**
     * A client of {@code url}: {@code http://host:port}, {@code https://host:port} or {@code unix:/path}, with 30 s
     * for a call and 4 tries more.
     */
    public Lossd(String url) {
        this(url, null, Duration.ofSeconds(30), 4, null);
    }

    /**
     * The same with everything said.
     *
     * @param apiKey sent as Authorization: Bearer; null for none
     * @param timeout of a whole call
     * @param retries how often a call is tried again where lossd is full
     * @param context for https: own authorities, a client's certificate; null for the JDK's
     */
    public Lossd(String url, String apiKey, Duration timeout, int retries, SSLContext context) {
        this.url = url.replaceAll("/+$", "");
        this.uri = URI.create(this.url);
        final boolean isUnix = "unix".equals(uri.getScheme()) && uri.getSchemeSpecificPart().startsWith("/");
        if (!isUnix && (uri.getHost() == null || !List.of("http", "https").contains(uri.getScheme()))) {
            throw new IllegalArgumentException(url + " is not http://host:port, https://host:port or unix:/path");
        }
        if (apiKey != null && !apiKey.matches("[!-~]+")) {
            throw new IllegalArgumentException("a key has visible characters of ASCII alone");
        }
        this.authority = isUnix ? "localhost" : uri.getRawAuthority().replaceAll(".*@", "");
        this.prefix = isUnix ? "" : uri.getRawPath();
        this.apiKey = apiKey;
        this.timeout = timeout;
        this.retries = retries;
        this.context = context;
    }

    /** Closes the connections that are kept. */
    @Override
    public void close() {
        for (Line line; (line = idle.poll()) != null;) {
            line.close();
        }
    }

    private static Thread daemon(Runnable task) {
        final Thread thread = new Thread(task, "lossd");
        thread.setDaemon(true);
        return thread;
    }

    /** Element types, and how many bytes an element has. */
    public enum Dtype {
        F64(8), F32(4), F16(2), BF16(2), I64(8), I32(4), U8(1), BOOL(1);

        final int width;

        Dtype(int width) {
            this.width = width;
        }

        Object array(int count) {
            return switch (this) {
                case F64 -> new double[count];
                case F32 -> new float[count];
                case F16, BF16 -> new short[count];
                case I64 -> new long[count];
                case I32 -> new int[count];
                case U8, BOOL -> new byte[count];
            };
        }

        /** Puts elements of an array into a buffer. */
        void put(ByteBuffer to, Object data, int from, int count) {
            switch (this) {
                case F64 -> to.asDoubleBuffer().put((double[]) data, from, count);
                case F32 -> to.asFloatBuffer().put((float[]) data, from, count);
                case F16, BF16 -> to.asShortBuffer().put((short[]) data, from, count);
                case I64 -> to.asLongBuffer().put((long[]) data, from, count);
                case I32 -> to.asIntBuffer().put((int[]) data, from, count);
                case U8, BOOL -> to.slice().put((byte[]) data, from, count);
            }
            to.position(to.position() + count * width);
        }

        /** Gets elements of an array from a buffer. */
        void get(ByteBuffer from, Object data, int at, int count) {
            switch (this) {
                case F64 -> from.asDoubleBuffer().get((double[]) data, at, count);
                case F32 -> from.asFloatBuffer().get((float[]) data, at, count);
                case F16, BF16 -> from.asShortBuffer().get((short[]) data, at, count);
                case I64 -> from.asLongBuffer().get((long[]) data, at, count);
                case I32 -> from.asIntBuffer().get((int[]) data, at, count);
                case U8, BOOL -> from.slice().get((byte[]) data, at, count);
            }
            from.position(from.position() + count * width);
        }
    }

    /**
     * A dense, row-major tensor. {@code data} is a double[] (F64), float[] (F32), long[] (I64), int[] (I32), byte[] (U8
     * and BOOL) or a short[] of the bits (F16, BF16). It is not copied, and must not be written to during a call.
     */
    public record Tensor(Dtype dtype, int[] shape, Object data) {
        public Tensor {
            final Class<?> wanted = switch (dtype) {
                case F64 -> double[].class;
                case F32 -> float[].class;
                case F16, BF16 -> short[].class;
                case I64 -> long[].class;
                case I32 -> int[].class;
                case U8, BOOL -> byte[].class;
            };
            if (!wanted.isInstance(data)) {
                throw new IllegalArgumentException(dtype + " is held by a " + wanted.getSimpleName());
            }
            long count = 1;
            for (int size : shape) {
                if (size < 0) {
                    throw new IllegalArgumentException("a shape has no negative sizes: " + Arrays.toString(shape));
                }
                count = Math.multiplyExact(count, (long) size);
            }
            if (count != java.lang.reflect.Array.getLength(data)) {
                throw new IllegalArgumentException(java.lang.reflect.Array.getLength(data)
                        + " elements do not make the shape " + Arrays.toString(shape));
            }
        }

        public static Tensor of(double[] data, int... shape) {
            return new Tensor(Dtype.F64, shape, data);
        }

        public static Tensor of(float[] data, int... shape) {
            return new Tensor(Dtype.F32, shape, data);
        }

        public static Tensor of(long[] data, int... shape) {
            return new Tensor(Dtype.I64, shape, data);
        }

        public static Tensor of(int[] data, int... shape) {
            return new Tensor(Dtype.I32, shape, data);
        }

        public static Tensor of(boolean[] data, int... shape) {
            final byte[] bytes = new byte[data.length];
            for (int i = 0; i < bytes.length; i++) {
                bytes[i] = (byte) (data[i] ? 1 : 0);
            }
            return new Tensor(Dtype.BOOL, shape, bytes);
        }

        /** How many elements. */
        public int size() {
            return java.lang.reflect.Array.getLength(data);
        }

        /** The only element of a tensor of one, such as {@code loss}. */
        public double item() {
            if (size() != 1) {
                throw new IllegalStateException("a tensor of shape " + Arrays.toString(shape) + " is not one number");
            }
            return get(0);
        }

        /** Element i of the flat tensor as a double, which has every value but those of large I64. */
        public double get(int i) {
            return switch (dtype) {
                case F64 -> ((double[]) data)[i];
                case F32 -> ((float[]) data)[i];
                case F16 -> fromF16(((short[]) data)[i]);
                case BF16 -> Float.intBitsToFloat(((short[]) data)[i] << 16);
                case I64 -> ((long[]) data)[i];
                case I32 -> ((int[]) data)[i];
                case U8, BOOL -> ((byte[]) data)[i] & 0xff;
            };
        }

        /** Element i, exactly. */
        private String text(int i) {
            return switch (dtype) {
                case F64, F32, F16, BF16 -> String.valueOf(get(i));
                case I64 -> String.valueOf(((long[]) data)[i]);
                case I32, U8 -> String.valueOf((int) get(i));
                case BOOL -> String.valueOf(get(i) != 0);
            };
        }

        /** The data as it is, of an F32 tensor; the values of any other as floats, in an array of their own. */
        public float[] floats() {
            if (dtype == Dtype.F32) {
                return (float[]) data;
            }
            final float[] values = new float[size()];
            for (int i = 0; i < values.length; i++) {
                values[i] = (float) get(i);
            }
            return values;
        }

        /** The data of an I64 tensor. */
        public long[] longs() {
            return (long[]) data;
        }

        private static double fromF16(short bits) {
            final int exponent = bits >> 10 & 0x1f;
            final int fraction = bits & 0x3ff;
            final double size = exponent == 31 ? (fraction != 0 ? Double.NaN : Double.POSITIVE_INFINITY)
                    : exponent == 0 ? Math.scalb((double) fraction, -24)
                    : Math.scalb(1024.0 + fraction, exponent - 25);
            return bits < 0 ? -size : size;
        }
    }

    /** What lossd refused, and why. */
    public static final class LossdException extends IOException {
        private static final long serialVersionUID = 1;

        /** The HTTP status. */
        public final int status;
        /** A stable word for programs, such as target_out_of_range; "" where somebody between has answered. */
        public final String code;
        /** What was wrong, where, and what would be right. */
        public final String detail;
        /** The tensor that it is about, or null; and where in it. */
        public final String input;
        public final transient List<Long> index;
        /** What the log of lossd calls the request. */
        public final String requestId;

        LossdException(int status, String code, String detail, String input, List<Long> index, String requestId) {
            super(detail + " (" + status + " " + code + ", request " + requestId + ")");
            this.status = status;
            this.code = code;
            this.detail = detail;
            this.input = input;
            this.index = index;
            this.requestId = requestId;
        }
    }

    /**
     * Evaluate a loss.
     *
     * @param inputs tensors by name
     * @param options by name: numbers, strings, booleans, lists, arrays, tensors, null for off; for composite's parts
     *     lists of maps
     * @param outputs those to reply with; none: {@code loss} and the usual gradients; {@code "grad.logits:bf16"} for a
     *     narrower type
     * @return the outputs by name, in order
     * @throws LossdException if lossd refuses
     * @throws SocketTimeoutException if it takes too long
     * @throws IOException if the connection fails, or the reply is not one of lossd's
     */
    public Map<String, Tensor> evaluate(String loss, Map<String, Tensor> inputs, Map<String, ?> options,
            String... outputs) throws IOException, InterruptedException {
        return post("/v1/losses/" + encoded(loss), inputs, options, outputs);
    }

    /**
     * The same without waiting, by a thread of its own. What is thrown there completes the future; to cancel it, or to
     * complete it otherwise, ends the call.
     */
    public CompletableFuture<Map<String, Tensor>> evaluateAsync(String loss, Map<String, Tensor> inputs,
            Map<String, ?> options, String... outputs) {
        final CompletableFuture<Map<String, Tensor>> result = new CompletableFuture<>();
        final FutureTask<Map<String, Tensor>> call = new FutureTask<>(() -> evaluate(loss, inputs, options, outputs)) {
            @Override
            protected void done() {
                try {
                    result.complete(get());
                } catch (ExecutionException e) {
                    result.completeExceptionally(e.getCause());
                } catch (CancellationException | InterruptedException e) {
                    result.completeExceptionally(e);
                }
            }
        };
        result.whenComplete((value, error) -> call.cancel(true)); // nothing to cancel where it has ended
        WAITING.execute(call);
        return result;
    }

    /** The same of what has no loss: mask_tokens, gae, group_advantages. */
    public Map<String, Tensor> transform(String name, Map<String, Tensor> inputs, Map<String, ?> options,
            String... outputs) throws IOException, InterruptedException {
        return post("/v1/transforms/" + encoded(name), inputs, options, outputs);
    }

    /** The names of all losses and transforms. */
    public List<String> losses() throws IOException, InterruptedException {
        return List.copyOf(descriptions().keySet());
    }

    /** Inputs, outputs, options, formula and sources of a loss: lossd's JSON as maps, lists and so on. */
    public Map<String, Object> describe(String loss) throws IOException, InterruptedException {
        final Map<String, Object> found = descriptions().get(loss);
        if (found == null) {
            throw new IllegalArgumentException("lossd at " + url + " has no loss " + loss);
        }
        return found;
    }

    private Map<String, Map<String, Object>> descriptions() throws IOException, InterruptedException {
        final Object document = Json.read(call("GET", "/v1/losses", null, retries, Reply::text));
        final Map<String, Map<String, Object>> byName = new LinkedHashMap<>();
        try {
            for (Object loss : Json.list(Json.map(document).get("losses"))) {
                byName.put((String) Json.map(loss).get("name"), Json.map(loss));
            }
        } catch (RuntimeException e) {
            throw new IOException("the reply is no list of losses", e);
        }
        return byName;
    }

    /**
     * Let lossd keep tensors, for requests to name as {@code name/tensor}. They are gone when lossd ends.
     *
     * @param replace whether to replace what is kept under that name; otherwise it is refused (409)
     */
    public void keep(String name, Map<String, Tensor> tensors, boolean replace)
            throws IOException, InterruptedException {
        call("PUT", "/v1/regions/" + encoded(name) + (replace ? "?replace=true" : ""),
                Message.of(tensors, Map.of()), retries, Reply::text);
    }

    public void forget(String name) throws IOException, InterruptedException {
        call("DELETE", "/v1/regions/" + encoded(name), null, retries, Reply::text);
    }

    /** The resident tensors that this client may name: name, dtype, shape, bytes. */
    public List<Object> resident() throws IOException, InterruptedException {
        final Object document = Json.read(call("GET", "/v1/regions", null, retries, Reply::text));
        return Json.list(Json.map(document).get("regions"));
    }

    /** An option that makes a resident tensor, such as {@code head/weight}, an input. */
    public static Map.Entry<String, String> resident(String input, String tensor) {
        return Map.entry("region." + input, Json.write(Map.of("region", tensor)));
    }

    /** Does lossd welcome requests? */
    public boolean ready() throws InterruptedException {
        try {
            call("GET", "/readyz", null, 0, Reply::text);
            return true;
        } catch (IOException e) {
            return false;
        }
    }

    // Calls.

    private static String encoded(String name) {
        return URLEncoder.encode(name, StandardCharsets.UTF_8).replace("+", "%20");
    }

    private Map<String, Tensor> post(String path, Map<String, Tensor> inputs, Map<String, ?> options,
            String... outputs) throws IOException, InterruptedException {
        final Map<String, Object> metadata = new LinkedHashMap<>();
        options.forEach((name, value) -> metadata.put(name, optionText(value)));
        if (outputs.length > 0) {
            metadata.put("outputs", String.join(",", outputs));
        }
        final Map<String, Tensor> got = call("POST", path, Message.of(inputs, metadata), retries, Reply::tensors);
        final List<String> wanted = Arrays.stream(outputs).map(Lossd::nameOf).toList();
        if (!got.keySet().containsAll(wanted)) {
            throw new IOException("the reply has " + got.keySet() + ", not all of " + wanted);
        }
        return got;
    }

    /** Of {@code name:type}; names may have colons, too. */
    private static String nameOf(String output) {
        final int colon = output.lastIndexOf(':');
        final boolean isTyped = Arrays.stream(Dtype.values())
                .anyMatch(dtype -> dtype.name().equalsIgnoreCase(output.substring(colon + 1)));
        return colon >= 0 && isTyped ? output.substring(0, colon) : output;
    }

    /** What is made of the body of a success. */
    private interface Reader<T> {
        T read(Reply reply) throws IOException;
    }

    /** The end of a try: the value of a success, or the text of a refusal. */
    private record Answer<T>(Reply reply, T value, String refusal) {
    }

    private <T> T call(String method, String path, Message message, int tries, Reader<T> reader)
            throws IOException, InterruptedException {
        final long end = System.nanoTime() + TimeUnit.NANOSECONDS.convert(timeout);
        for (int left = tries;; left--) {
            final Answer<T> answer = attempt(method, path, message, reader, end);
            if (answer.value != null) {
                return answer.value;
            }
            final long wait = retryAfter(answer.reply);
            if (answer.reply.status != 503 || left == 0 || wait >= end - System.nanoTime()) {
                throw refusal(answer.reply, answer.refusal);
            }
            TimeUnit.NANOSECONDS.sleep(wait);
        }
    }

    private <T> Answer<T> attempt(String method, String path, Message message, Reader<T> reader, long end)
            throws IOException, InterruptedException {
        for (;;) {
            // One that lossd has closed since is found out by the request, which then goes out once more. To evaluate
            // twice is no harm; what changes something takes a new connection.
            final Line kept = method.equals("PUT") || method.equals("DELETE") ? null : idle.poll();
            final Line line = kept != null ? kept : new Line(uri);
            final long remaining = end - System.nanoTime();
            final Future<?> late = CLOCK.schedule(line::close, remaining, TimeUnit.NANOSECONDS);
            boolean isClean = false; // half read it is of no more use
            try {
                if (kept == null) {
                    line.connect(uri, context);
                }
                final Reply reply = line.ask(head(method, path, message, remaining), message);
                final boolean good = reply.status / 100 == 2;
                final Answer<T> answer =
                        new Answer<>(reply, good ? reader.read(reply) : null, good ? null : reply.text());
                isClean = reply.isClean();
                return answer;
            } catch (IOException e) {
                if (Thread.interrupted()) {
                    throw new InterruptedException();
                }
                if (end - System.nanoTime() <= 0) {
                    throw new SocketTimeoutException("no whole reply of lossd at " + url + " in time");
                }
                if (kept == null || !(e instanceof Unheard)) { // else lossd had closed it since
                    throw new IOException("lossd at " + url + ": " + e.getMessage(), e);
                }
            } finally {
                late.cancel(false);
                if (isClean) {
                    keep(line);
                } else {
                    line.close();
                }
            }
        }
    }

    /** For the next call; those that none has needed for long, which are the last, are closed. */
    private void keep(Line line) {
        final long now = System.nanoTime();
        line.since = now;
        idle.push(line);
        for (Line last; (last = idle.peekLast()) != null && now - last.since > LONG_IDLE.toNanos();) {
            if (idle.removeLastOccurrence(last)) {
                last.close();
            }
        }
    }

    private byte[] head(String method, String path, Message message, long remaining) {
        final StringBuilder head = new StringBuilder(300)
                .append(method).append(' ').append(prefix).append(path).append(" HTTP/1.1\r\nHost: ").append(authority)
                .append("\r\nX-Request-Timeout: ").append(Math.max(1, TimeUnit.NANOSECONDS.toMillis(remaining)));
        if (apiKey != null) {
            head.append("\r\nAuthorization: Bearer ").append(apiKey);
        }
        if (message != null) {
            head.append("\r\nContent-Type: ").append(MEDIA).append("\r\nAccept: ").append(MEDIA)
                    .append("\r\nContent-Length: ").append(message.length);
        }
        return head.append("\r\n\r\n").toString().getBytes(StandardCharsets.ISO_8859_1);
    }

    private static long retryAfter(Reply reply) {
        final String text = reply.fields.getOrDefault("retry-after", "");
        final double seconds = text.matches("\\d+") ? Double.parseDouble(text) : 1; // or a date, of a proxy
        return (long) (seconds * 1e9);
    }

    private static LossdException refusal(Reply reply, String text) {
        final String id = reply.fields.getOrDefault("x-request-id", "");
        try {
            final Map<String, Object> problem = Json.map(Json.read(text));
            final List<Long> index = new ArrayList<>();
            if (problem.get("index") instanceof List<?> places) {
                places.forEach(place -> index.add(((Number) place).longValue()));
            }
            return new LossdException(reply.status, String.valueOf(problem.getOrDefault("code", "")),
                    String.valueOf(problem.getOrDefault("detail", "")), (String) problem.get("input"), index, id);
        } catch (IOException | RuntimeException e) { // not lossd's: somebody between has answered
            return new LossdException(reply.status, "", text.substring(0, Math.min(200, text.length())), null,
                    List.of(), id);
        }
    }

    /** Options as lossd writes them; a tensor or an array is its number, or a list of them. */
    private static String optionText(Object value) {
        if (value == null) {
            return "off";
        }
        if (value instanceof Tensor tensor) {
            return IntStream.range(0, tensor.size()).mapToObj(tensor::text).collect(Collectors.joining(","));
        }
        if (value.getClass().isArray()) {
            return IntStream.range(0, java.lang.reflect.Array.getLength(value))
                    .mapToObj(i -> optionText(java.lang.reflect.Array.get(value, i))).collect(Collectors.joining(","));
        }
        if (value instanceof List<?> list) {
            return !list.isEmpty() && list.get(0) instanceof Map ? Json.write(list)
                    : list.stream().map(Lossd::optionText).collect(Collectors.joining(","));
        }
        return String.valueOf(value);
    }

    /** What a request carries in safetensors: a length and a JSON header, then the tensors, which are not copied. */
    private record Message(byte[] header, List<Tensor> tensors, long length) {
        static Message of(Map<String, Tensor> inputs, Map<String, Object> metadata) {
            final List<Map.Entry<String, Tensor>> sorted = new ArrayList<>(inputs.entrySet());
            // The widest first: then each is aligned if the first is.
            sorted.sort((a, b) -> b.getValue().dtype.width - a.getValue().dtype.width);
            final Map<String, Object> header = new LinkedHashMap<>();
            if (!metadata.isEmpty()) {
                header.put("__metadata__", metadata);
            }
            final List<Tensor> tensors = new ArrayList<>();
            long end = 0;
            for (Map.Entry<String, Tensor> entry : sorted) {
                final Tensor t = entry.getValue();
                final long begin = end;
                end += (long) t.size() * t.dtype.width;
                final List<Integer> shape = Arrays.stream(t.shape).boxed().toList();
                header.put(entry.getKey(),
                        Map.of("dtype", t.dtype.name(), "shape", shape, "data_offsets", List.of(begin, end)));
                tensors.add(t);
            }
            final byte[] json = Json.write(header).getBytes(StandardCharsets.UTF_8);
            final int padded = (json.length + 7) / 8 * 8;
            final byte[] head = new byte[8 + padded];
            Arrays.fill(head, (byte) ' ');
            ByteBuffer.wrap(head).order(ByteOrder.LITTLE_ENDIAN).putLong(padded).put(json);
            return new Message(head, tensors, head.length + end);
        }
    }

    /** The connection was closed before a byte of the reply. */
    private static final class Unheard extends IOException {
        private static final long serialVersionUID = 1;

        Unheard(Throwable why) {
            super("the connection was closed before a reply came", why);
        }
    }

    /**
     * A connection: HTTP/1.1, as far as a lossd and the proxies before it need it. Tensors go through one buffer, from
     * and to the arrays where they stay. java.net.http hands each part of a body from thread to thread, and keeps all
     * of it besides: twice the time for large tensors, and many times as much for small ones.
     */
    private static final class Line implements Closeable {
        private static final int ROOM = 256 * 1024;
        private static final int LONGEST = 64 * 1024; // line of a head
        private static final int UNIX_BUFFER = 512 * 1024; // the kernel's own is 208 KiB: twice the time for large ones

        private long since; // when it was kept
        private final SocketChannel channel;
        private ReadableByteChannel in;
        private WritableByteChannel out;
        private final ByteBuffer buffer = ByteBuffer.allocateDirect(ROOM).order(ByteOrder.LITTLE_ENDIAN);

        Line(URI uri) throws IOException {
            channel = uri.getHost() == null ? SocketChannel.open(StandardProtocolFamily.UNIX) : SocketChannel.open();
            in = channel;
            out = channel;
        }

        /** @param context of https; null for the JDK's */
        void connect(URI uri, SSLContext context) throws IOException {
            final String host = uri.getHost();
            if (host == null) {
                channel.setOption(StandardSocketOptions.SO_SNDBUF, UNIX_BUFFER);
                channel.connect(UnixDomainSocketAddress.of(uri.getSchemeSpecificPart()));
                return;
            }
            final boolean secure = uri.getScheme().equals("https");
            final int port = uri.getPort() >= 0 ? uri.getPort() : secure ? 443 : 80;
            channel.setOption(StandardSocketOptions.TCP_NODELAY, true);
            channel.connect(new InetSocketAddress(InetAddress.getByName(host), port));
            if (secure) {
                final SSLSocketFactory sockets =
                        context == null ? (SSLSocketFactory) SSLSocketFactory.getDefault() : context.getSocketFactory();
                final SSLSocket socket = (SSLSocket) sockets.createSocket(channel.socket(), host, port, true);
                final SSLParameters parameters = socket.getSSLParameters();
                parameters.setEndpointIdentificationAlgorithm("HTTPS"); // the certificate must be the host's
                socket.setSSLParameters(parameters);
                socket.startHandshake();
                in = Channels.newChannel(socket.getInputStream());
                out = Channels.newChannel(socket.getOutputStream());
            }
        }

        @Override
        public void close() {
            try {
                channel.close();
            } catch (IOException e) {
                // it is of no more use, closed or not
            }
        }

        /** Sends a request. The body of what it returns is to be read next. */
        Reply ask(byte[] head, Message message) throws IOException {
            IOException unsent = null;
            try {
                send(head, message);
            } catch (IOException e) {
                unsent = e; // refused before all of it was sent? Then there is a reply
            }
            buffer.clear().limit(0);
            try {
                more();
            } catch (IOException e) {
                throw new Unheard(unsent == null ? e : unsent);
            }
            final Reply reply = reply();
            if (unsent != null) {
                reply.fields.put("connection", "close");
            }
            return reply;
        }

        private void send(byte[] head, Message message) throws IOException {
            buffer.clear();
            write(Dtype.U8, head, head.length);
            if (message != null) {
                write(Dtype.U8, message.header, message.header.length);
                for (Tensor tensor : message.tensors) {
                    write(tensor.dtype, tensor.data, tensor.size());
                }
            }
            flush();
        }

        private void write(Dtype dtype, Object data, int count) throws IOException {
            for (int done = 0; done < count;) {
                final int part = Math.min(count - done, buffer.remaining() / dtype.width);
                dtype.put(buffer, data, done, part);
                done += part;
                if (done < count) {
                    flush();
                }
            }
        }

        private void flush() throws IOException {
            buffer.flip();
            while (buffer.hasRemaining()) {
                out.write(buffer);
            }
            buffer.clear();
        }

        /** Reads behind what is left in the buffer; false at the end of the connection. */
        private boolean fill() throws IOException {
            buffer.compact();
            try {
                return in.read(buffer) >= 0;
            } finally {
                buffer.flip();
            }
        }

        private void more() throws IOException {
            if (!fill()) {
                throw new IOException("the connection was closed before the reply was whole");
            }
        }

        private Reply reply() throws IOException {
            final Map<String, String> fields = new LinkedHashMap<>();
            String[] words;
            do {
                words = line().split(" ", 3);
                if (words.length < 2 || !words[0].startsWith("HTTP/1.") || !words[1].matches("[1-9]\\d\\d")) {
                    throw new IOException("the reply is not HTTP/1.1: " + String.join(" ", words));
                }
                fields.clear();
                for (String field; !(field = line()).isEmpty();) {
                    final int colon = Math.max(0, field.indexOf(':'));
                    fields.put(field.substring(0, colon).toLowerCase(Locale.ROOT), field.substring(colon + 1).strip());
                }
            } while (words[1].startsWith("1"));
            if (words[0].equals("HTTP/1.0")) {
                fields.putIfAbsent("connection", "close");
            }
            final int status = Integer.parseInt(words[1]);
            final String length = status == 204 ? "0" : fields.get("content-length");
            if (fields.getOrDefault("transfer-encoding", "").equalsIgnoreCase("chunked")) { // not lossd's, a proxy's
                return new Reply(status, fields, chunks());
            }
            if (length == null) {
                fields.put("connection", "close");
                return new Reply(status, fields, all());
            }
            if (!length.matches("\\d{1,18}")) {
                throw new IOException("the reply has a Content-Length of " + length);
            }
            return new Reply(status, fields, this, Long.parseLong(length));
        }

        /** A line without its end. */
        private String line() throws IOException {
            final StringBuilder text = new StringBuilder();
            for (;;) {
                if (!buffer.hasRemaining()) {
                    more();
                }
                final char c = (char) (buffer.get() & 0xff);
                if (c == '\n') {
                    return text.toString().stripTrailing();
                }
                if (text.append(c).length() > LONGEST) {
                    throw new IOException("the reply has a line without end");
                }
            }
        }

        private byte[] chunks() throws IOException {
            final ByteArrayOutputStream whole = new ByteArrayOutputStream();
            for (;;) {
                final String size = line().split(";", 2)[0].strip();
                if (!size.matches("0*[0-9A-Fa-f]{1,7}")) {
                    throw new IOException("the reply is not chunked as it says");
                }
                int left = Integer.parseInt(size, 16);
                if (left == 0) {
                    break;
                }
                for (; left > 0; left -= take(whole, left)) {
                    if (!buffer.hasRemaining()) {
                        more();
                    }
                }
                line();
            }
            while (!line().isEmpty()) {
                continue; // a trailer
            }
            return whole.toByteArray();
        }

        /** Up to where the connection ends. */
        private byte[] all() throws IOException {
            final ByteArrayOutputStream whole = new ByteArrayOutputStream();
            do {
                take(whole, ROOM);
            } while (fill());
            return whole.toByteArray();
        }

        private int take(ByteArrayOutputStream to, int most) {
            final byte[] part = new byte[Math.min(most, buffer.remaining())];
            buffer.get(part);
            to.writeBytes(part);
            return part.length;
        }
    }

    /** A reply whose body is yet to be read, from a connection or from memory. */
    private static final class Reply {
        final int status;
        final Map<String, String> fields; // their names in lower case
        private final Line line;
        private final ByteBuffer buffer;
        private long left;

        Reply(int status, Map<String, String> fields, Line line, long length) {
            this.status = status;
            this.fields = fields;
            this.line = line;
            this.buffer = line.buffer;
            this.left = length;
        }

        Reply(int status, Map<String, String> fields, byte[] body) {
            this.status = status;
            this.fields = fields;
            this.line = null;
            this.buffer = ByteBuffer.wrap(body).order(ByteOrder.LITTLE_ENDIAN);
            this.left = body.length;
        }

        /** May the connection be used again? */
        boolean isClean() {
            final boolean isLast = fields.getOrDefault("connection", "").equalsIgnoreCase("close");
            return !isLast && left == 0 && !buffer.hasRemaining();
        }

        /** The next elements of the body, as an array of their type. */
        Object take(Dtype dtype, long size) throws IOException {
            if (left < size * dtype.width || size > Integer.MAX_VALUE - 8) {
                throw new IOException(left < size * dtype.width ? "the reply is shorter than its tensors"
                        : size + " elements are more than an array of Java has");
            }
            left -= size * dtype.width;
            final int count = (int) size;
            final Object to = dtype.array(count);
            for (int done = 0; done < count;) {
                final int part = Math.min(count - done, buffer.remaining() / dtype.width);
                dtype.get(buffer, to, done, part);
                done += part;
                if (done < count) {
                    line.more();
                }
            }
            return to;
        }

        String text() throws IOException {
            return new String((byte[]) take(Dtype.U8, left), StandardCharsets.UTF_8);
        }

        /** The tensors of a body in safetensors. */
        Map<String, Tensor> tensors() throws IOException {
            try {
                final long head = ((long[]) take(Dtype.I64, 1))[0];
                if (head < 0 || head > left) {
                    throw new IllegalArgumentException("its header is cut off");
                }
                final byte[] json = (byte[]) take(Dtype.U8, head);
                final Map<String, Object> header = Json.map(Json.read(new String(json, StandardCharsets.UTF_8)));
                header.remove("__metadata__");
                final Map<String, Tensor> outputs = new LinkedHashMap<>();
                final List<Place> places = new ArrayList<>();
                header.forEach((name, entry) -> {
                    outputs.put(name, null); // in the order of the header
                    places.add(Place.of(name, Json.map(entry)));
                });
                // Each begins where another ends: what is allocated is no larger than the body.
                places.sort(Comparator.comparingLong(Place::begin).thenComparingLong(Place::end));
                long end = 0;
                for (Place place : places) {
                    if (place.begin != end || place.end < end) {
                        throw new IllegalArgumentException("a tensor begins at " + place.begin + ", not at " + end);
                    }
                    end = place.end;
                }
                if (end != left) {
                    throw new IllegalArgumentException("its tensors end at " + end + " of " + left);
                }
                for (Place place : places) {
                    final Object data = take(place.dtype, place.count());
                    outputs.put(place.name, new Tensor(place.dtype, place.shape, data));
                }
                return outputs;
            } catch (RuntimeException e) { // whatever does not fit together
                throw new IOException("the reply is no safetensors file: " + e.getMessage(), e);
            }
        }
    }

    /** Where in a body a tensor lies. */
    private record Place(String name, Dtype dtype, int[] shape, long begin, long end) {
        static Place of(String name, Map<String, Object> entry) {
            final List<Object> sizes = Json.list(entry.get("shape"));
            final int[] shape = sizes.stream().mapToInt(size -> Math.toIntExact((Long) size)).toArray();
            final List<Object> offsets = Json.list(entry.get("data_offsets"));
            return new Place(name, Dtype.valueOf((String) entry.get("dtype")), shape, (Long) offsets.get(0),
                    (Long) offsets.get(1));
        }

        long count() {
            if ((end - begin) % dtype.width != 0) {
                throw new IllegalArgumentException("no " + dtype + " from " + begin + " to " + end);
            }
            return (end - begin) / dtype.width;
        }
    }

    /** As much JSON as lossd speaks: objects are maps, arrays lists, numbers Long or Double. */
    static final class Json {
        private static final int DEEPEST = 100;
        private static final Pattern NUMBER = Pattern.compile("-?(?:0|[1-9]\\d*)((?:\\.\\d+)?(?:[eE][+-]?\\d+)?)");

        private final String text;
        private int at;

        private Json(String text) {
            this.text = text;
        }

        static Object read(String text) throws IOException {
            final Json json = new Json(text);
            try {
                final Object value = json.value(0);
                json.skip();
                if (json.at == text.length()) {
                    return value;
                }
            } catch (NumberFormatException e) {
                throw json.wrong();
            }
            throw json.wrong();
        }

        @SuppressWarnings("unchecked")
        static Map<String, Object> map(Object value) {
            return (Map<String, Object>) value;
        }

        @SuppressWarnings("unchecked")
        static List<Object> list(Object value) {
            return (List<Object>) value;
        }

        static String write(Object value) {
            final StringBuilder to = new StringBuilder();
            write(value, to);
            return to.toString();
        }

        private static void write(Object value, StringBuilder to) {
            char before = '{';
            if (value instanceof Map<?, ?> map) {
                for (Map.Entry<?, ?> member : map.entrySet()) {
                    quote(String.valueOf(member.getKey()), to.append(before));
                    write(member.getValue(), to.append(':'));
                    before = ',';
                }
                to.append(map.isEmpty() ? "{}" : "}");
            } else if (value instanceof List<?> list) {
                before = '[';
                for (Object item : list) {
                    write(item, to.append(before));
                    before = ',';
                }
                to.append(list.isEmpty() ? "[]" : "]");
            } else if (value instanceof CharSequence) {
                quote(value.toString(), to);
            } else {
                to.append(value);
            }
        }

        private static void quote(String text, StringBuilder to) {
            to.append('"');
            for (char c : text.toCharArray()) {
                if (c == '"' || c == '\\') {
                    to.append('\\').append(c);
                } else if (c < 0x20) {
                    to.append(String.format("\\u%04x", (int) c));
                } else {
                    to.append(c);
                }
            }
            to.append('"');
        }

        private IOException wrong() {
            return new IOException("no JSON at character " + at);
        }

        private void skip() {
            while (at < text.length() && " \t\r\n".indexOf(text.charAt(at)) >= 0) {
                at++;
            }
        }

        private boolean accept(String word) {
            skip();
            final boolean there = text.startsWith(word, at);
            at += there ? word.length() : 0;
            return there;
        }

        private Object value(int depth) throws IOException {
            skip();
            if (at == text.length() || depth > DEEPEST) {
                throw wrong();
            }
            switch (text.charAt(at)) {
                case '{':
                    return object(depth);
                case '[':
                    return array(depth);
                case '"':
                    return string();
                default:
                    return accept("null") ? null : accept("true") ? (Object) true : accept("false") ? (Object) false
                            : number();
            }
        }

        private Map<String, Object> object(int depth) throws IOException {
            final Map<String, Object> members = new LinkedHashMap<>();
            at++;
            if (accept("}")) {
                return members;
            }
            do {
                skip();
                final String name = string();
                if (!accept(":")) {
                    throw wrong();
                }
                if (members.containsKey(name)) {
                    throw wrong();
                }
                members.put(name, value(depth + 1));
            } while (accept(","));
            if (!accept("}")) {
                throw wrong();
            }
            return members;
        }

        private List<Object> array(int depth) throws IOException {
            final List<Object> items = new ArrayList<>();
            at++;
            if (accept("]")) {
                return items;
            }
            do {
                items.add(value(depth + 1));
            } while (accept(","));
            if (!accept("]")) {
                throw wrong();
            }
            return items;
        }

        private String string() throws IOException {
            final StringBuilder to = new StringBuilder();
            if (at == text.length() || text.charAt(at) != '"') {
                throw wrong();
            }
            for (at++; at < text.length() && text.charAt(at) != '"'; at++) {
                char c = text.charAt(at);
                if (c < 0x20) {
                    throw wrong();
                }
                if (c == '\\' && ++at < text.length()) {
                    c = text.charAt(at);
                    final int escape = "\"\\/bfnrt".indexOf(c);
                    if (c == 'u' && at + 4 < text.length()) {
                        c = (char) HexFormat.fromHexDigits(text, at + 1, at + 5);
                        at += 4;
                    } else if (escape >= 0) {
                        c = "\"\\/\b\f\n\r\t".charAt(escape);
                    } else {
                        throw wrong();
                    }
                }
                to.append(c);
            }
            if (at++ >= text.length()) {
                throw wrong();
            }
            return to.toString();
        }

        private Object number() throws IOException {
            final int from = at;
            while (at < text.length() && "+-.0123456789eE".indexOf(text.charAt(at)) >= 0) {
                at++;
            }
            final String token = text.substring(from, at);
            final Matcher number = NUMBER.matcher(token);
            if (!number.matches()) {
                throw wrong();
            }
            if (number.group(1).isEmpty()) {
                try {
                    return Long.valueOf(token);
                } catch (NumberFormatException e) {
                    // larger than a long
                }
            }
            return Double.valueOf(token);
        }
    }
}
