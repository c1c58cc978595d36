import { request } from 'undici';
import { InvalidArgumentError } from '../../base/errors.ts';
import type { Webhook } from '../administrators.ts';

/** Chat services and pagers answer within a second or so. */
export const WEBHOOK_TIMEOUT_MS = 5_000;

/**
 * Posts notices as JSON to an address.
 * @throws InvalidArgumentError for something that is no HTTP address
 */
export function httpWebhook(url: string): Webhook {
  const target = URL.canParse(url) ? new URL(url) : undefined;
  if (target?.protocol !== 'http:' && target?.protocol !== 'https:') {
    throw new InvalidArgumentError(
      `"${url}" is no address for notices; expected one such as https://alerts.example/hook.`,
    );
  }
  return async (notice) => {
    const { statusCode, body } = await request(target, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(notice),
      signal: AbortSignal.timeout(WEBHOOK_TIMEOUT_MS),
    });
    await body.dump();
    if (statusCode >= 300) throw new Error(`it answered ${statusCode}`);
  };
}
