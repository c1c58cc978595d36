import type { ErrorCode } from '../../base/errors.ts';
import type { InferAnswer } from '../data-plane.ts';
import type { Json } from '../json.ts';
import type { AnswerFormat, DocumentLimits, EncodedInfer, InferDocument, InferTarget } from './infer.ts';

/** What the thread for large JSON is asked to do. */
export type JsonTask =
  | {
      readonly kind: 'document';
      readonly target: InferTarget;
      readonly body: Uint8Array;
      readonly headerLength: string | undefined;
      readonly limits: DocumentLimits;
    }
  | { readonly kind: 'value'; readonly body: Uint8Array; readonly maxDepth: number }
  | { readonly kind: 'answer'; readonly format: AnswerFormat; readonly answer: InferAnswer };

/** By the kind of the task. */
export interface JsonResults {
  readonly document: InferDocument;
  readonly value: Json;
  readonly answer: EncodedInfer;
}

export type JsonReply =
  | { readonly isDone: true; readonly result: JsonResults[JsonTask['kind']] }
  | { readonly isDone: false; readonly code: ErrorCode | undefined; readonly message: string };
