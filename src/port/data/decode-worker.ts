import { parentPort, workerData } from 'node:worker_threads';
import { BonsaiError, messageOf } from '../../base/errors.ts';
import { seededRandom } from '../../base/random.ts';
import { drawCrop } from './crop.ts';
import type { ImageFiles } from './data-module.ts';
import { decodeImages, IMAGE_CHANNELS } from './decode-image.ts';
import type { DecodeReply, DecodeRequest } from './examples.ts';

// The worker thread of `openExamples`: answers each request, one after another.
const { size, resize } = workerData as Pick<ImageFiles, 'size' | 'resize'>; // As `openExamples` gives it.
let before: Promise<void> = Promise.resolve();
parentPort!.on('message', (request: DecodeRequest) => {
  before = before.then(() => answer(request));
});

async function answer({ paths, crop }: DecodeRequest): Promise<void> {
  try {
    const images = new Uint8Array(paths.length * IMAGE_CHANNELS * size * size);
    const random = crop && seededRandom(crop.seed);
    await decodeImages(
      paths,
      (index) => ({
        size,
        resize,
        crop: crop && ((aspect) => drawCrop(crop.minAreaRatio, aspect, random!.fork(`crop ${index}`))),
      }),
      images,
    );
    parentPort!.postMessage({ kind: 'decoded', images } satisfies DecodeReply, [images.buffer]);
  } catch (thrown) {
    const code = thrown instanceof BonsaiError ? thrown.code : 'corrupt_dataset';
    parentPort!.postMessage({ kind: 'failed', code, message: messageOf(thrown) } satisfies DecodeReply);
  }
}
