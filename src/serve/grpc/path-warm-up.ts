import { type ClientHttp2Session, connect } from 'node:http2';
import type { AddressInfo } from 'node:net';
import { create, toBinary } from '@bufbuild/protobuf';
import { byteLengthOf } from '../../base/dtype.ts';
import { elementCount } from '../../base/tensor.ts';
import { datatypeOf } from '../../repository/datatypes.ts';
import type { WarmTarget } from '../path-warm-up.ts';
import { frameOf } from './framing.ts';
import { ModelInferRequestSchema } from './inference_pb.ts';
import { createGrpcServer, type GrpcContext } from './server.ts';

/** Sends requests through a gRPC server of its own until it is told to stop. @throws what the connection fails with */
export async function warmGrpc(
  context: GrpcContext,
  target: WarmTarget,
  token: string,
  mayGoOn: () => boolean,
): Promise<void> {
  const grpc = createGrpcServer({ ...context, tls: undefined });
  const { server } = grpc;
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  const { port } = server.address() as AddressInfo; // It listens on TCP.
  const session = connect(`http://127.0.0.1:${port}`);
  session.on('error', () => undefined); // Its calls fail with it.
  const frame = requestFrame(target);
  try {
    while (mayGoOn()) await once(session, token, frame);
  } finally {
    session.destroy();
    await grpc.close(0);
  }
}

function once(session: ClientHttp2Session, token: string, frame: Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    const stream = session.request({
      ':method': 'POST',
      ':path': '/inference.GRPCInferenceService/ModelInfer',
      'content-type': 'application/grpc',
      authorization: `Bearer ${token}`,
      te: 'trailers',
    });
    stream.once('error', reject).once('close', resolve);
    stream.resume();
    stream.end(frame);
  });
}

function requestFrame({ model, inputs }: WarmTarget): Buffer {
  const message = create(ModelInferRequestSchema, {
    modelName: model,
    inputs: inputs.map(({ name, dtype, shape }) => ({
      name,
      datatype: datatypeOf(dtype),
      shape: shape.map(BigInt),
    })),
    rawInputContents: inputs.map(
      ({ dtype, shape }) => new Uint8Array(byteLengthOf(dtype, elementCount(shape))),
    ),
  });
  return frameOf(toBinary(ModelInferRequestSchema, message));
}
