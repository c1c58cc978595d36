import { Option } from 'commander';
import type { Webhook } from '../orchestrate/administrators.ts';

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
