// SPDX-License-Identifier: MIT
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.Map;
import java.util.Random;
import lossd.Lossd;

/** Java's client: evaluates once for every line that it reads, and answers with the ms it took. */
final class Turns {
    public static void main(String[] args) throws Exception {
        final int rows = Integer.parseInt(args[1]);
        final int classes = Integer.parseInt(args[2]);
        final Random random = new Random(0);
        final float[] logits = new float[rows * classes];
        final long[] targets = new long[rows];
        for (int i = 0; i < logits.length; i++) {
            logits[i] = 4 * random.nextFloat() - 2;
        }
        for (int i = 0; i < rows; i++) {
            targets[i] = i * 7919L % classes;
        }
        final Map<String, Lossd.Tensor> inputs = Map.of("logits", Lossd.Tensor.of(logits, rows, classes),
                "targets", Lossd.Tensor.of(targets, rows));
        final Lossd client = new Lossd(args[0]);
        final BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        while (lines.readLine() != null) {
            final long begun = System.nanoTime();
            client.evaluate("cross_entropy", inputs, Map.of());
            System.out.println((System.nanoTime() - begun) / 1e6);
        }
        System.exit(0);
    }
}
