import { Option } from 'commander';
import { type Administrators, administrators, type Webhook } from '../orchestrate/administrators.ts';
import type { Logger } from '../orchestrate/logger.ts';
import { DEFAULT_HOST } from '../serve/listen.ts';
import { type MetricsPage, serveMetricsPage } from '../serve/metrics-page.ts';
import type { Context } from './context.ts';

export function noticeWebhookOption(): Option {
  return new Option(
    '--notice-webhook <url>',
    'where to post, once per episode, that what is observed and what profiles predict part',
  );
}

/** @throws InvalidArgumentError for something that is no HTTP address */
export async function webhookOf(url: string | undefined): Promise<Webhook | undefined> {
  if (url === undefined) return undefined;
  // A client of HTTP takes memory that a server without webhook is to have for networks.
  const { httpWebhook } = await import('../orchestrate/adapters/webhook.ts');
  return httpWebhook(url);
}

/**
 * Those who are told what an orchestrator notices: the log, a webhook, and a page of metrics where a port is given.
 * @throws BonsaiError `port_in_use`; InvalidArgumentError for a webhook that is no HTTP address
 */
export async function openAdministrators(
  { clock }: Pick<Context, 'clock'>,
  logger: Logger,
  options: {
    readonly noticeWebhook?: string;
    readonly metricsPort?: number;
    /** Metrics in Prometheus' text format that the page shows as well. */
    readonly moreMetrics?: () => string;
  },
): Promise<{ readonly told: Administrators; readonly page: MetricsPage | undefined }> {
  const told = administrators({ logger, clock, webhook: await webhookOf(options.noticeWebhook) });
  if (options.metricsPort === undefined) return { told, page: undefined };
  const text = () => `${told.metricsText()}${options.moreMetrics?.() ?? ''}`;
  const page = await serveMetricsPage({ host: DEFAULT_HOST, port: options.metricsPort, text });
  logger.info({ metrics: page.url }, `Metrics are at ${page.url}.`);
  return { told, page };
}
