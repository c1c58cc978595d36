import type { Clock } from '../../base/clock.ts';
import type { InferAnswer, InferRequest, RequestPlane, Submission } from '../data-plane.ts';

/**
 * Sees each answer before it goes out. It must not throw, and it may take time only if it makes sure that the answer is
 * still in time.
 * @param elapsedMs since the request was taken in
 * @returns what is answered
 */
export type Review = (
  request: InferRequest,
  answer: InferAnswer,
  elapsedMs: number,
) => InferAnswer | Promise<InferAnswer>;

/** A data plane whose answers are reviewed; those to the server's own requests are not. */
export function reviewedPlane(plane: RequestPlane, review: Review, clock: Clock): RequestPlane {
  return {
    bytes: plane.bytes,
    get hasWaiting() {
      return plane.hasWaiting;
    },
    checkAdmission: (head) => plane.checkAdmission(head),
    submit(request): Submission {
      const submission = plane.submit(request);
      if (request.isUncounted) return submission;
      const startMs = clock.nowMs();
      return {
        answer: submission.answer.then((answer) => review(request, answer, clock.nowMs() - startMs)),
        cancel: () => submission.cancel(),
      };
    },
  };
}
