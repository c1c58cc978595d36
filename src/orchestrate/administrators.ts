import { setTimeout as delay } from 'node:timers/promises';
import type { Clock } from '../base/clock.ts';
import { messageOf } from '../base/errors.ts';
import { metricsTextOf } from '../base/metrics-text.ts';
import type { Logger } from './logger.ts';

/**
 * Those who are to know when observation and model part (`Decision.notice`). Each episode is told once: to the log, to
 * the metrics, and to the webhook where there is one.
 */
export interface Administrators {
  /** What the decision about a server said of it, if anything; to be called for every decision. */
  hear(server: string, notice: string | undefined): void;
  /** Metrics in Prometheus' text format. */
  metricsText(): string;
  /** Settles when everything that was told so far has arrived or was given up. */
  settled(): Promise<void>;
}

export interface AdministratorsOptions {
  readonly logger: Logger;
  readonly clock: Clock;
  /** Where each episode is posted to. */
  readonly webhook?: Webhook;
}

/** Posts a notice. Rejects if it did not arrive. */
export type Webhook = (notice: PostedNotice) => Promise<void>;

/** The body of a webhook's request. */
export interface PostedNotice {
  readonly source: 'bonsai';
  readonly server: string;
  readonly notice: string;
  /** ISO 8601. */
  readonly at: string;
}

export const noticeDefaults = {
  /** A notice that was not repeated for this long is over; the next one is told again. */
  clearMs: 60_000,
  /** A webhook that fails is tried again after these waits, and then given up. */
  webhookRetriesMs: [1_000, 10_000],
} as const;

interface Episode {
  lastMs: number;
  count: number;
}

export function administrators(options: AdministratorsOptions): Administrators {
  const { logger, clock, webhook } = options;
  const episodes = new Map<string, Episode>();
  let posting: Promise<void> = Promise.resolve();
  const isOpen = ({ count, lastMs }: Episode) =>
    count > 0 && clock.nowMs() - lastMs <= noticeDefaults.clearMs;
  return {
    hear(server, notice) {
      const episode = episodes.get(server) ?? { lastMs: Number.NEGATIVE_INFINITY, count: 0 };
      episodes.set(server, episode);
      if (notice === undefined) return;
      const isNew = !isOpen(episode);
      episode.lastMs = clock.nowMs();
      if (!isNew) return;
      episode.count++;
      logger.warn({ server, notice: true }, notice);
      if (webhook === undefined) return;
      const posted = {
        source: 'bonsai',
        server,
        notice,
        at: new Date(clock.epochMs()).toISOString(),
      } as const;
      posting = posting.then(() => post(webhook, posted, logger));
    },
    metricsText() {
      return metricsTextOf([
        {
          name: 'bonsai_notice_active',
          type: 'gauge',
          help: 'Whether observation and model part: see the log for how',
          series: [...episodes].map(([server, episode]) => ({
            labels: { server },
            value: isOpen(episode) ? 1 : 0,
          })),
        },
        {
          name: 'bonsai_notice_episodes_total',
          type: 'counter',
          help: 'Times that observation and model began to part',
          series: [...episodes].map(([server, { count }]) => ({ labels: { server }, value: count })),
        },
      ]);
    },
    settled: () => posting,
  };
}

/** Never rejects. */
async function post(webhook: Webhook, notice: PostedNotice, logger: Logger): Promise<void> {
  for (const waitMs of [...noticeDefaults.webhookRetriesMs, undefined]) {
    try {
      await webhook(notice);
      return;
    } catch (thrown) {
      if (waitMs === undefined) {
        const message = `The webhook did not take a notice about ${notice.server}: ${messageOf(thrown)}`;
        logger.error({ server: notice.server }, message);
        return;
      }
    }
    await delay(waitMs, undefined, { ref: false });
  }
}
