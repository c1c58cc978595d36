import type { Logger } from 'pino';
import { v2Server } from '../orchestrate/adapters/v2-server.ts';
import type { Administrators } from '../orchestrate/administrators.ts';
import { runLoop } from '../orchestrate/loop.ts';
import type { Objective } from '../orchestrate/watch.ts';
import type { Policy } from '../policy/policy.ts';
import type { RunningServer } from '../serve/server.ts';
import type { Context } from './context.ts';
import { changesOf } from './decision-text.ts';

/** Lets a policy move the tasks of a server in this process along their families, until the context's signal. */
export async function followPolicy(
  server: RunningServer,
  policy: Policy,
  options: {
    readonly objective: Objective;
    /** Versions of each task that it may have in memory. */
    readonly residency: number;
    readonly administrators: Administrators;
    readonly context: Context;
    readonly logger: Logger;
    /** That the server asks of its clients. */
    readonly token: string | undefined;
    readonly isEncrypted: boolean;
  },
): Promise<void> {
  const { objective, residency, administrators, context, logger, token, isEncrypted } = options;
  const { clock, signal } = context;
  const adapter = v2Server({
    url: server.httpUrl,
    metricsUrl: server.metricsUrl,
    clock,
    token,
    // It speaks to itself, by an address that its certificate may not name.
    trustsAnyCertificate: isEncrypted,
  });
  server.plane.useDispatch(policy.dispatch);
  server.overrides.followedBy = policy.name;
  try {
    await runLoop({
      servers: [adapter],
      isInside: true,
      policy,
      objective,
      residency,
      administrators,
      clock,
      signal,
      logger,
      overrides: () => server.overrides.byTask,
      isHosted: (task) => server.models.isHosted(task),
      onDecision: (record) => {
        if (record.plan !== undefined) server.plane.setPlan(record.plan);
        server.control?.tell({
          atMs: Math.round(clock.epochMs()),
          kind: 'decision',
          reason: record.reason,
          changes: changesOf(record),
          notice: record.notice,
        });
      },
    });
  } finally {
    server.overrides.followedBy = undefined;
    await adapter.close();
  }
}
