import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { BonsaiError, InvalidArgumentError, messageOf, systemCodeOf } from '../base/errors.ts';

export interface MetricsPage {
  readonly url: string;
  close(): Promise<void>;
}

/** Content type of Prometheus' text format. */
const PROMETHEUS_TEXT = 'text/plain; version=0.0.4; charset=utf-8';

/**
 * A page of metrics at /metrics, for programs that serve nothing else.
 * @param port 0: any free one
 * @throws BonsaiError `port_in_use`, InvalidArgumentError for an address that cannot be listened on
 */
export async function serveMetricsPage(options: {
  readonly host: string;
  readonly port: number;
  readonly text: () => string;
}): Promise<MetricsPage> {
  const { host, port, text } = options;
  const server = createServer((request, response) => {
    const path = request.url?.split('?')[0];
    if (request.method !== 'GET') response.writeHead(405).end();
    else if (path !== '/metrics') response.writeHead(404).end();
    else response.writeHead(200, { 'Content-Type': PROMETHEUS_TEXT }).end(text());
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause) => {
      reject(
        systemCodeOf(cause) === 'EADDRINUSE'
          ? new BonsaiError('port_in_use', `Port ${port} on ${host} is in use. Choose another one.`, {
              cause,
            })
          : new InvalidArgumentError(`Cannot listen on ${host}, port ${port}: ${messageOf(cause)}`, {
              cause,
            }),
      );
    });
    server.listen(port, host, resolve);
  });
  const address = server.address() as AddressInfo; // A listening TCP server has one.
  const shown = host.includes(':') ? `[${host}]` : host;
  return {
    url: `http://${shown}:${address.port}/metrics`,
    close: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
