import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expect, test } from 'vitest';
import { httpWebhook } from './adapters/webhook.ts';
import { administrators, noticeDefaults, type PostedNotice } from './administrators.ts';
import { silentLogger } from './logger.ts';

function manualClock() {
  let timeMs = 0;
  return {
    nowMs: () => timeMs,
    epochMs: () => timeMs,
    advance: (durationMs: number) => {
      timeMs += durationMs;
    },
  };
}

test('log, metrics and webhook tell each episode once', async () => {
  const clock = manualClock();
  const logged: string[] = [];
  const posted: PostedNotice[] = [];
  const told = administrators({
    clock,
    logger: { ...silentLogger, warn: (_fields, message) => logged.push(message) },
    webhook: async (notice) => void posted.push(notice),
  });
  const metricOf = (name: string) =>
    told
      .metricsText()
      .split('\n')
      .find((line) => line.startsWith(`${name}{server="a"}`));
  told.hear('a', undefined);
  expect([metricOf('bonsai_notice_active'), metricOf('bonsai_notice_episodes_total')]).toEqual([
    'bonsai_notice_active{server="a"} 0',
    'bonsai_notice_episodes_total{server="a"} 0',
  ]);
  // Said again within a minute it is the same episode, however long that lasts.
  for (let i = 0; i < 5; i++) {
    told.hear('a', `mismatch ${i}`);
    clock.advance(noticeDefaults.clearMs);
  }
  expect(metricOf('bonsai_notice_active')).toBe('bonsai_notice_active{server="a"} 1');
  clock.advance(1);
  expect(metricOf('bonsai_notice_active')).toBe('bonsai_notice_active{server="a"} 0');
  told.hear('a', 'again');
  told.hear('b', 'another server has episodes of its own');
  await told.settled();
  expect(logged).toEqual(['mismatch 0', 'again', 'another server has episodes of its own']);
  expect(posted.map(({ server, notice }) => `${server}: ${notice}`)).toEqual([
    'a: mismatch 0',
    'a: again',
    'b: another server has episodes of its own',
  ]);
  expect(metricOf('bonsai_notice_episodes_total')).toBe('bonsai_notice_episodes_total{server="a"} 2');
});

test('names of servers are escaped as Prometheus wants it', () => {
  const told = administrators({ clock: manualClock(), logger: silentLogger });
  told.hear('a"b\\c', undefined);
  expect(told.metricsText()).toContain('bonsai_notice_active{server="a\\"b\\\\c"} 0');
});

test('an HTTP webhook gets the notice as JSON, and its refusals are told', async () => {
  const bodies: unknown[] = [];
  let status = 204;
  const server = createServer((request, response) => {
    let body = '';
    request.on('data', (chunk) => {
      body += chunk;
    });
    request.on('end', () => {
      bodies.push(JSON.parse(body));
      response.writeHead(status).end();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo; // A TCP server's address is an object.
  try {
    const post = httpWebhook(`http://127.0.0.1:${port}/hook`);
    const notice = { source: 'bonsai', server: 'a', notice: 'n', at: '2026-01-01T00:00:00.000Z' } as const;
    await post(notice);
    expect(bodies).toEqual([notice]);
    status = 500;
    await expect(post(notice)).rejects.toThrow('it answered 500');
  } finally {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
  expect(() => httpWebhook('alerts')).toThrow(/expected one such as https:/);
});
