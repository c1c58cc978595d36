import { expect, it } from 'vitest';
import { fuzzedGrpc } from '../bench/fuzz-grpc.ts';
import { fuzzedRest } from '../bench/fuzz-rest.ts';
import { fuzz } from '../bench/fuzz-server.ts';

it('answers every malformed REST request by a 4xx and goes on serving', async () => {
  const { statuses, failures } = await fuzz(fuzzedRest, 1_000, 7);
  expect(failures).toEqual([]);
  expect([...statuses.keys()].sort()).toEqual(expect.arrayContaining(['400', '404', '413', '431']));
});

it('answers every malformed gRPC request by the status of a client at fault and goes on serving', async () => {
  const { statuses, failures } = await fuzz(fuzzedGrpc, 1_000, 7);
  expect(failures).toEqual([]);
  expect([...statuses.keys()].sort()).toEqual(
    expect.arrayContaining([
      'INVALID_ARGUMENT',
      'NOT_FOUND',
      'UNIMPLEMENTED',
      'RESOURCE_EXHAUSTED',
      'HTTP 405',
      'HTTP 415',
      'error_message',
      'GOAWAY',
    ]),
  );
});
