import { BonsaiError, ERROR_CODES, type ErrorCode } from '../../src/base/errors.ts';
import { exitCodeOf } from '../../src/cli/exit-codes.ts';
import { STATUS_BY_CODE as GRPC_STATUS_BY_CODE, STATUS } from '../../src/serve/grpc/errors.ts';
import { STATUS_BY_CODE as HTTP_STATUS_BY_CODE } from '../../src/serve/rest/errors.ts';
import { code, GENERATED_NOTE, table } from './markdown.ts';

/** Every error code with what it means, what to do, and what it becomes at the borders. */
export function errorReference(): string {
  return `${[
    '# Errors',
    GENERATED_NOTE,
    'An error says its code, what was received, what was expected and what to do next: `[missing_rule] Einsum (node "attn/qk") has no gradient …`. ' +
      'In the library it is a `BonsaiError` with `code`; from a command it is a line on standard error and an exit code; from a server a status and a message.',
    table(
      ['code', 'meaning', 'what to do', 'HTTP', 'gRPC', 'exit'],
      ERROR_CODES.map((each) => [
        code(each),
        ERRORS[each].meaning,
        ERRORS[each].remedy,
        String(HTTP_STATUS_BY_CODE[each]),
        grpcName(GRPC_STATUS_BY_CODE[each]),
        String(exitCodeOf(new BonsaiError(each, ''))),
      ]),
    ),
    'Statuses without a code come from the protocols themselves: 401 (no or a wrong token), 404 (no such path), 405, 408, 431 in HTTP, UNAUTHENTICATED and ' +
      'UNIMPLEMENTED in gRPC. [protocol.md](../protocol.md) and [serve.md](../serve.md#limits) tell of them.',
  ].join('\n\n')}\n`;
}

function grpcName(status: number): string {
  return Object.entries(STATUS).find(([, number]) => number === status)![0];
}

const ERRORS = {
  aborted: {
    meaning: 'interrupted, by Ctrl-C or by who called',
    remedy: 'start it again: finished steps are kept',
  },
  already_running: {
    meaning: 'another program does the same on the same files',
    remedy: 'wait, or end the other one; the message names its lock',
  },
  body_too_large: {
    meaning: 'a body, its JSON or a tensor is over its limit',
    remedy:
      'send less, or raise the limit that the message names (`--max-body`, `--max-json`, `--max-tensor`)',
  },
  cancelled: {
    meaning: 'the client has gone before its answer',
    remedy: 'nothing; see whether its time-out is too short',
  },
  corrupt_checkpoint: {
    meaning: 'a checkpoint of a training cannot be read',
    remedy: 'remove the file that is named; the training begins anew',
  },
  corrupt_dataset: {
    meaning: 'labelled data is not as its format wants it',
    remedy: 'repair or fetch again the file that is named; [data.md](../data.md) has the formats',
  },
  corrupt_model: { meaning: 'a file is no sound ONNX network', remedy: 'export or copy it again' },
  corrupt_repository: {
    meaning: 'a manifest or a network differs from its digest or schema',
    remedy: '`bonsai repo verify` lists all; copy, pull or port it again. The rest keeps serving',
  },
  deadline_exceeded: {
    meaning: 'the answer would have come, or came, too late',
    remedy:
      'fewer requests, smaller versions (`--policy`), more CPUs, or a longer objective; send it again after `Retry-After`',
  },
  empty_group: {
    meaning: 'nothing can be pruned, or nothing would be left',
    remedy: '`bonsai inspect` says what freezes the channels; ask for less',
  },
  engine_failure: {
    meaning: 'ONNX Runtime failed, or a thread around it',
    remedy: 'see the log; `bonsai doctor` checks the engine',
  },
  invalid_argument: {
    meaning: 'an operand, an option or an argument cannot be used',
    remedy: 'as the message says',
  },
  invalid_config: {
    meaning: 'a configuration file, or the configuration of a load request, is wrong',
    remedy: 'the message names file, line and field; [configuration.md](configuration.md)',
  },
  invalid_graph: {
    meaning: 'a network breaks a rule of ONNX',
    remedy: 'export it again; the message names the node',
  },
  invalid_request: {
    meaning: 'a request breaks the protocol: names, shapes, datatypes, sizes',
    remedy: 'ask for the metadata (`GET /v2/models/NAME`) and send what it says',
  },
  load_failed: {
    meaning: 'a version, or a server that a command starts, could not be loaded',
    remedy: 'the reason follows; what served before still does',
  },
  missing_dataset: {
    meaning: 'there is no data where it should be',
    remedy: 'correct `--data`, or `bonsai download` it',
  },
  missing_file: {
    meaning: 'a file is not there',
    remedy: 'correct the path; networks with external data need those files beside them',
  },
  missing_rule: {
    meaning: 'an operator lacks a rule (gradient, shape, cost) that is needed',
    remedy: 'fold or replace the operator in the export, or add the rule to `src/ops/`',
  },
  model_not_found: {
    meaning: 'there is no task of this name',
    remedy: '`bonsai repo list`, or the index of the server, has the names',
  },
  not_in_repository: {
    meaning: 'the server’s repository lacks the model to load',
    remedy: 'put it there, or name another',
  },
  not_ready: {
    meaning: 'the server, a model or a policy is not ready to answer yet',
    remedy: 'wait for `/v2/health/ready`; load the model',
  },
  port_in_use: {
    meaning: 'another program listens there',
    remedy: 'another port (0: any free one); `bonsai doctor` says who',
  },
  queue_full: {
    meaning: 'as much as may wait waits: requests, bytes under way, or porting jobs',
    remedy: 'send it again after `Retry-After`; `--max-queue`, `--max-in-flight`; `bonsai port --jobs`',
  },
  server_unreachable: {
    meaning: 'a server that is needed does not answer, or not as it should',
    remedy: 'check URL and token, and that it runs',
  },
  shape_mismatch: {
    meaning: 'shapes of tensors do not fit each other',
    remedy: 'the message names node and input, or the field of the data',
  },
  shutting_down: { meaning: 'the server drains and takes nothing new', remedy: 'send it to another one' },
  store_conflict: {
    meaning: 'somebody else published the task meanwhile',
    remedy: 'look at what is there now, then push again',
  },
  store_refused: {
    meaning: 'the bucket refuses: credentials, rights, region, clock, or there is none',
    remedy: 'the message says which; [repository.md](../repository.md#how-the-store-is-reached)',
  },
  store_unreachable: {
    meaning: 'the bucket’s store does not answer',
    remedy: 'check the endpoint; a server goes on with what it has',
  },
  training_diverged: {
    meaning: 'a loss, a gradient or a weight is not finite',
    remedy: 'a lower `--learning-rate`, a longer `--warmup`, `--clip-norm`',
  },
  unknown_policy: {
    meaning: 'there is no policy of this name',
    remedy: '[policies.md](../policies.md) has the names; a file begins with `./`',
  },
  unsupported: { meaning: 'it is sound, but not offered here', remedy: 'the message says what is instead' },
  unsupported_media: {
    meaning: 'an encoding of a body is not understood',
    remedy: 'send it as `gzip`, `deflate` or plain',
  },
  unwritable_path: {
    meaning: 'a file or folder cannot be written',
    remedy: 'check rights and room; `--force` replaces a file that is there',
  },
  version_not_found: {
    meaning: 'there is no such version, or none is ready',
    remedy: '`bonsai repo show` has the numbers; load it',
  },
  worker_lost: {
    meaning: 'a process or thread that computed has ended',
    remedy: 'send it again; if it recurs, see memory and the log',
  },
} as const satisfies Record<ErrorCode, { readonly meaning: string; readonly remedy: string }>;
