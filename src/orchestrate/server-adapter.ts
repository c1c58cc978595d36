import type { Scrape } from './observe.ts';

/** A server as the loop sees it. Both calls may throw; the loop reports that and goes on. */
export interface ServerAdapter {
  /** How logs call it. */
  readonly name: string;
  /** @throws BonsaiError `server_unreachable`, `invalid_config` (token), `invalid_request` (not understood) */
  observe(signal: AbortSignal): Promise<Scrape>;
  /**
   * Makes the version the one that answers; resolves when it does.
   * @throws BonsaiError `load_failed`, `model_not_found`, `version_not_found`, `not_ready`, `server_unreachable`
   */
  switchVersion(task: string, version: number, signal: AbortSignal): Promise<void>;
  close(): Promise<void>;
}
