// SPDX-License-Identifier: MIT
package lossd;

import java.io.IOException;
import java.net.ConnectException;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.http.HttpTimeoutException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicReference;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

/**
 * A client of lossd in one file, for Java 17 and later, with nothing but the JDK. May be used by many threads; its
 * connections are kept. java.net.http knows no Unix sockets: TCP only.
 *
 * <p>A call takes at most {@code timeout}, tries included, and lossd is told of it. Where lossd is full (503) a call is
 * tried again after the time it asks for. An evaluation has no effect but its reply, so that one whose connection was
 * closed under it is sent once more.
 */
public final class Lossd {
    private static final String MEDIA = "application/x-safetensors";

    // What java.net.http reads and writes at a time. By default it is 16 KiB, of which a large tensor has thousands: each
    // goes through its executor, and together they take six times as long. Read when its first client is made.
    static {
        if (System.getProperty("jdk.httpclient.bufsize") == null) {
            System.setProperty("jdk.httpclient.bufsize", "262144");
        }
    }

    private final String url;
    private final String apiKey;
    private final Duration timeout;
    private final int retries;
    private final HttpClient http;

    /** A client of {@code url}, such as {@code http://127.0.0.1:8080}, with 30 s for a call and 4 tries more. */
    public Lossd(String url) {
        this(url, null, Duration.ofSeconds(30), 4, HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build());
    }

    /**
     * The same with everything said.
     *
     * @param apiKey sent as Authorization: Bearer; null for none
     * @param timeout of a whole call
     * @param retries how often a call is tried again where lossd is full
     * @param http what carries the calls: own executors, certificates, proxies. Build it with HTTP_1_1
     */
    public Lossd(String url, String apiKey, Duration timeout, int retries, HttpClient http) {
        final URI uri = URI.create(url);
        if (uri.getHost() == null || !List.of("http", "https").contains(uri.getScheme())) {
            throw new IllegalArgumentException(url + " is not http://host:port or https://host:port");
        }
        this.url = url.replaceAll("/+$", "");
        this.apiKey = apiKey;
        this.timeout = timeout;
        this.retries = retries;
        this.http = http;
    }

    /** Element types, and how many bytes an element has. */
    public enum Dtype {
        F64(8), F32(4), F16(2), BF16(2), I64(8), I32(4), U8(1), BOOL(1);

        final int width;

        Dtype(int width) {
            this.width = width;
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
     * @param options by name: numbers, strings, booleans, lists, arrays, tensors, null for off; for composite's parts lists of maps
     * @param outputs those to reply with; none: {@code loss} and the usual gradients
     * @return the outputs by name, in order
     * @throws LossdException if lossd refuses
     * @throws HttpTimeoutException if it takes too long
     * @throws IOException if the connection fails, or the reply is not one of lossd's
     */
    public Map<String, Tensor> evaluate(String loss, Map<String, Tensor> inputs, Map<String, ?> options,
            String... outputs) throws IOException, InterruptedException {
        return wait(evaluateAsync(loss, inputs, options, outputs));
    }

    /** The same without waiting. What is thrown there completes the future; cancelling it ends the call. */
    public CompletableFuture<Map<String, Tensor>> evaluateAsync(String loss, Map<String, Tensor> inputs,
            Map<String, ?> options, String... outputs) {
        return post("/v1/losses/" + encoded(loss), inputs, options, outputs);
    }

    /** The same of what has no loss: mask_tokens. */
    public Map<String, Tensor> transform(String name, Map<String, Tensor> inputs, Map<String, ?> options,
            String... outputs) throws IOException, InterruptedException {
        return wait(post("/v1/transforms/" + encoded(name), inputs, options, outputs));
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
        final Object document = Json.read(text(wait(call("GET", "/v1/losses", null, retries))));
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
        wait(call("PUT", "/v1/regions/" + encoded(name) + (replace ? "?replace=true" : ""),
                Safetensors.write(tensors, Map.of()), retries));
    }

    public void forget(String name) throws IOException, InterruptedException {
        wait(call("DELETE", "/v1/regions/" + encoded(name), null, retries));
    }

    /** The resident tensors that this client may name: name, dtype, shape, bytes. */
    public List<Object> resident() throws IOException, InterruptedException {
        final Object document = Json.read(text(wait(call("GET", "/v1/regions", null, retries))));
        return Json.list(Json.map(document).get("regions"));
    }

    /** An option that makes a resident tensor, such as {@code head/weight}, an input. */
    public static Map.Entry<String, String> resident(String input, String tensor) {
        return Map.entry("region." + input, Json.write(Map.of("region", tensor)));
    }

    /** Does lossd welcome requests? */
    public boolean ready() throws InterruptedException {
        try {
            wait(call("GET", "/readyz", null, 0));
            return true;
        } catch (IOException e) {
            return false;
        }
    }

    // Calls.

    private static String encoded(String name) {
        return URLEncoder.encode(name, StandardCharsets.UTF_8);
    }

    private CompletableFuture<Map<String, Tensor>> post(String path, Map<String, Tensor> inputs, Map<String, ?> options,
            String... outputs) {
        final Map<String, Object> metadata = new LinkedHashMap<>();
        options.forEach((name, value) -> metadata.put(name, optionText(value)));
        if (outputs.length > 0) {
            metadata.put("outputs", String.join(",", outputs));
        }
        final CompletableFuture<byte[]> called = call("POST", path, Safetensors.write(inputs, metadata), retries);
        final CompletableFuture<Map<String, Tensor>> read = called.thenCompose(body -> {
            try {
                final Map<String, Tensor> got = Safetensors.read(body);
                if (!got.keySet().containsAll(List.of(outputs))) {
                    throw new IOException("the reply has " + got.keySet() + ", not all of " + List.of(outputs));
                }
                return CompletableFuture.completedFuture(got);
            } catch (IOException e) {
                return CompletableFuture.failedFuture(e);
            }
        });
        read.whenComplete((value, error) -> called.cancel(true)); // nothing to cancel where it has come
        return read;
    }

    /** The body of a reply that is a success. */
    private CompletableFuture<byte[]> call(String method, String path, byte[] body, int left) {
        final CompletableFuture<byte[]> result = new CompletableFuture<>();
        final AtomicReference<CompletableFuture<?>> under = new AtomicReference<>();
        result.whenComplete((value, error) -> under.get().cancel(true));
        final long end = System.nanoTime() + TimeUnit.NANOSECONDS.convert(timeout);
        attempt(method, path, body, left, true, end, result, under);
        return result;
    }

    private void attempt(String method, String path, byte[] body, int left, boolean again, long end,
            CompletableFuture<byte[]> result, AtomicReference<CompletableFuture<?>> under) {
        final long remaining = Math.max(1, TimeUnit.NANOSECONDS.toMillis(end - System.nanoTime()));
        final HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(url + path))
                .header("X-Request-Timeout", Long.toString(remaining));
        if (apiKey != null) {
            request.header("Authorization", "Bearer " + apiKey);
        }
        if (body == null) {
            request.method(method, HttpRequest.BodyPublishers.noBody());
        } else {
            request.header("Content-Type", MEDIA).header("Accept", MEDIA);
            request.method(method, HttpRequest.BodyPublishers.ofByteArray(body));
        }
        final CompletableFuture<HttpResponse<byte[]>> sent =
                http.sendAsync(request.build(), HttpResponse.BodyHandlers.ofByteArray());
        under.set(sent);
        if (result.isDone()) { // cancelled meanwhile
            sent.cancel(true);
        }
        // HttpRequest's own timeout ends with the headers; this one is for all of the reply.
        sent.copy().orTimeout(remaining, TimeUnit.MILLISECONDS).whenComplete((reply, thrown) -> {
            final Throwable error = cause(thrown);
            if (error instanceof TimeoutException) {
                result.completeExceptionally(new HttpTimeoutException("no reply within " + timeout.toMillis() + " ms"));
            } else if (error instanceof IOException && !(error instanceof ConnectException) && again) {
                attempt(method, path, body, left, false, end, result, under);
            } else if (error != null) {
                result.completeExceptionally(error);
            } else if (reply.statusCode() / 100 == 2) {
                result.complete(reply.body());
            } else {
                final long wait = retryAfter(reply);
                if (reply.statusCode() == 503 && left > 0 && wait < end - System.nanoTime()) {
                    CompletableFuture.delayedExecutor(wait, TimeUnit.NANOSECONDS)
                            .execute(() -> attempt(method, path, body, left - 1, again, end, result, under));
                } else {
                    result.completeExceptionally(refusal(reply));
                }
            }
        });
    }

    private static long retryAfter(HttpResponse<?> reply) {
        final String text = reply.headers().firstValue("Retry-After").orElse("");
        final double seconds = text.matches("\\d+") ? Double.parseDouble(text) : 1; // or a date, of a proxy
        return (long) (seconds * 1e9);
    }

    private static LossdException refusal(HttpResponse<byte[]> reply) {
        final String id = reply.headers().firstValue("X-Request-Id").orElse("");
        final String text = text(reply.body());
        try {
            final Map<String, Object> problem = Json.map(Json.read(text));
            final List<Long> index = new ArrayList<>();
            if (problem.get("index") instanceof List<?> places) {
                places.forEach(place -> index.add(((Number) place).longValue()));
            }
            return new LossdException(reply.statusCode(), String.valueOf(problem.getOrDefault("code", "")),
                    String.valueOf(problem.getOrDefault("detail", "")), (String) problem.get("input"), index, id);
        } catch (IOException | RuntimeException e) { // not lossd's: somebody between has answered
            return new LossdException(reply.statusCode(), "", text.substring(0, Math.min(200, text.length())), null,
                    List.of(), id);
        }
    }

    private static Throwable cause(Throwable thrown) {
        return thrown instanceof java.util.concurrent.CompletionException && thrown.getCause() != null
                ? thrown.getCause() : thrown;
    }

    private static <T> T wait(CompletableFuture<T> future) throws IOException, InterruptedException {
        try {
            return future.get();
        } catch (InterruptedException e) {
            future.cancel(true);
            throw e;
        } catch (ExecutionException e) {
            final Throwable why = cause(e.getCause());
            if (why instanceof IOException known) {
                throw known;
            }
            throw new IOException(why);
        }
    }

    private static String text(byte[] utf8) {
        return new String(utf8, StandardCharsets.UTF_8);
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

    /** Bodies: a length, a JSON header, the tensors. */
    private static final class Safetensors {
        static byte[] write(Map<String, Tensor> inputs, Map<String, Object> metadata) {
            final List<Map.Entry<String, Tensor>> sorted = new ArrayList<>(inputs.entrySet());
            // The widest first: then each is aligned if the first is.
            sorted.sort((a, b) -> b.getValue().dtype.width - a.getValue().dtype.width);
            final Map<String, Object> header = new LinkedHashMap<>();
            if (!metadata.isEmpty()) {
                header.put("__metadata__", metadata);
            }
            long end = 0;
            for (Map.Entry<String, Tensor> entry : sorted) {
                final Tensor t = entry.getValue();
                final long begin = end;
                end += (long) t.size() * t.dtype.width;
                final List<Object> shape = Arrays.stream(t.shape).boxed().collect(Collectors.toList());
                header.put(entry.getKey(),
                        Map.of("dtype", t.dtype.name(), "shape", shape, "data_offsets", List.of(begin, end)));
            }
            String text = Json.write(header);
            byte[] head = text.getBytes(StandardCharsets.UTF_8);
            head = (text + " ".repeat((8 - head.length % 8) % 8)).getBytes(StandardCharsets.UTF_8);
            final ByteBuffer body =
                    ByteBuffer.allocate(Math.toIntExact(8 + head.length + end)).order(ByteOrder.LITTLE_ENDIAN);
            body.putLong(head.length).put(head);
            for (Map.Entry<String, Tensor> entry : sorted) {
                put(body, entry.getValue());
            }
            return body.array();
        }

        private static void put(ByteBuffer to, Tensor t) {
            switch (t.dtype) {
                case F64 -> to.asDoubleBuffer().put((double[]) t.data);
                case F32 -> to.asFloatBuffer().put((float[]) t.data);
                case F16, BF16 -> to.asShortBuffer().put((short[]) t.data);
                case I64 -> to.asLongBuffer().put((long[]) t.data);
                case I32 -> to.asIntBuffer().put((int[]) t.data);
                default -> to.slice().put((byte[]) t.data);
            }
            to.position(to.position() + t.size() * t.dtype.width);
        }

        static Map<String, Tensor> read(byte[] body) throws IOException {
            try {
                final ByteBuffer all = ByteBuffer.wrap(body).order(ByteOrder.LITTLE_ENDIAN);
                final int head = Math.toIntExact(all.getLong(0));
                if (head < 0 || head > body.length - 8) {
                    throw new IOException("its header is cut off");
                }
                final Map<String, Object> header = Json.map(Json.read(text(Arrays.copyOfRange(body, 8, 8 + head))));
                header.remove("__metadata__");
                final List<int[]> places = new ArrayList<>();
                header.values().forEach(entry -> places.add(place(Json.map(entry))));
                // Each begins where another ends: what is read is no larger than the body.
                places.sort((a, b) -> a[0] != b[0] ? Integer.compare(a[0], b[0]) : Integer.compare(a[1], b[1]));
                int end = 0;
                for (int[] place : places) {
                    if (place[0] != end) {
                        throw new IOException("a tensor begins at " + place[0] + ", not at " + end);
                    }
                    end = place[1];
                }
                if (end != body.length - 8 - head) {
                    throw new IOException("its tensors end at " + end + " of " + (body.length - 8 - head));
                }
                final Map<String, Tensor> outputs = new LinkedHashMap<>();
                header.forEach((name, entry) -> outputs.put(name, tensor(all, 8 + head, Json.map(entry))));
                return outputs;
            } catch (RuntimeException | IOException e) { // whatever does not fit together
                throw new IOException("the reply is no safetensors file: " + e.getMessage(), e);
            }
        }

        private static int[] place(Map<String, Object> entry) {
            return ints(entry.get("data_offsets"));
        }

        private static int[] ints(Object list) {
            return Json.list(list).stream().mapToInt(size -> Math.toIntExact((Long) size)).toArray();
        }

        private static Tensor tensor(ByteBuffer all, int data, Map<String, Object> entry) {
            final Dtype dtype = Dtype.valueOf((String) entry.get("dtype"));
            final int[] shape = ints(entry.get("shape"));
            final int[] place = place(entry);
            final int begin = place[0];
            final int end = place[1];
            final int count = (end - begin) / dtype.width;
            if (begin < 0 || count * dtype.width != end - begin) {
                throw new IllegalArgumentException("no " + dtype + " from " + begin + " to " + end);
            }
            final ByteBuffer from = all.slice(data + begin, end - begin).order(ByteOrder.LITTLE_ENDIAN);
            return new Tensor(dtype, shape, take(from, dtype, count));
        }

        private static Object take(ByteBuffer from, Dtype dtype, int count) {
            switch (dtype) {
                case F64: {
                    final double[] to = new double[count];
                    from.asDoubleBuffer().get(to);
                    return to;
                }
                case F32: {
                    final float[] to = new float[count];
                    from.asFloatBuffer().get(to);
                    return to;
                }
                case F16:
                case BF16: {
                    final short[] to = new short[count];
                    from.asShortBuffer().get(to);
                    return to;
                }
                case I64: {
                    final long[] to = new long[count];
                    from.asLongBuffer().get(to);
                    return to;
                }
                case I32: {
                    final int[] to = new int[count];
                    from.asIntBuffer().get(to);
                    return to;
                }
                default: {
                    final byte[] to = new byte[count];
                    from.get(to);
                    return to;
                }
            }
        }
    }

    /** As much JSON as lossd speaks: objects are maps, arrays lists, numbers Long or Double. */
    static final class Json {
        private static final int DEEPEST = 100;

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
            if (value instanceof Map<?, ?> map) {
                return map.entrySet().stream().map(e -> quote(String.valueOf(e.getKey())) + ":" + write(e.getValue()))
                        .collect(Collectors.joining(",", "{", "}"));
            }
            if (value instanceof List<?> list) {
                return list.stream().map(Json::write).collect(Collectors.joining(",", "[", "]"));
            }
            return value instanceof CharSequence ? quote(value.toString()) : String.valueOf(value);
        }

        private static String quote(String text) {
            final StringBuilder to = new StringBuilder("\"");
            for (char c : text.toCharArray()) {
                if (c == '"' || c == '\\') {
                    to.append('\\').append(c);
                } else if (c < 0x20) {
                    to.append(String.format("\\u%04x", (int) c));
                } else {
                    to.append(c);
                }
            }
            return to.append('"').toString();
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
            if (!token.matches("-?(0|[1-9]\\d*)(\\.\\d+)?([eE][+-]?\\d+)?")) {
                throw wrong();
            }
            if (token.matches("-?\\d+")) {
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
