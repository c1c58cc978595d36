import type { IncomingMessage } from 'node:http';
import { isIP } from 'node:net';
import { hostname } from 'node:os';
import { HttpError } from '../rest/errors.ts';
import type { Access, Permission } from '../safety/tokens.ts';

/** What has to be known to tell our own page in a browser from a foreign one. */
export interface GuardOptions {
  readonly access: Access;
  /** The address that the server was told to listen on. */
  readonly host: string;
  readonly isEncrypted: boolean;
}

/**
 * Lets a request through that may do what it wants, and that no foreign page has made a browser send:
 * - a name in `Host` that is not known to be ours may have been pointed here by whoever owns the name (DNS rebinding),
 *   so that it needs a token, which such a page does not have;
 * - requests that a browser says come from another site are refused, whatever they want;
 * - changes must be JSON, which no foreign form can send without asking first, and nobody who asks is told yes.
 * @throws HttpError 401 (token), 403 (foreign), 415 (type)
 */
export function checkRequest(request: IncomingMessage, permission: Permission, options: GuardOptions): void {
  const { access } = options;
  const { authorization, host = '', origin } = request.headers;
  const site = request.headers['sec-fetch-site'];
  if (site !== undefined && site !== 'same-origin' && site !== 'none')
    throw new HttpError(403, 'this request comes from a page of another site');
  if (origin !== undefined && origin !== `http${options.isEncrypted ? 's' : ''}://${host}`)
    throw new HttpError(403, `this request comes from a page of ${origin.slice(0, 80)}, not of this server`);
  if (!access.allows(permission, authorization)) {
    throw new HttpError(
      401,
      permission === 'administration'
        ? "changes need 'Authorization: Bearer' with the administrator's token"
        : "this server needs 'Authorization: Bearer' with a token",
    );
  }
  const bearsToken = (wanted: Permission) => access.asksFor(wanted) && access.allows(wanted, authorization);
  if (!isOwnName(host, options.host) && !bearsToken(permission) && !bearsToken('administration')) {
    throw new HttpError(
      access.asksFor('administration') ? 401 : 403,
      `"${host.slice(0, 80)}" is no name of this server that it knows: use its address, or a token (--admin-token-file)`,
    );
  }
  const isChange = permission === 'administration';
  if (isChange && !/^application\/json\b/i.test(request.headers['content-type'] ?? ''))
    throw new HttpError(415, "changes are JSON: send 'Content-Type: application/json'");
}

/** Numbers, `localhost`, this machine's name and the name that it was told to listen on cannot be pointed elsewhere. */
function isOwnName(authority: string, listening: string): boolean {
  const name = (/^\[(.*)\](?::\d+)?$/.exec(authority)?.[1] ?? authority.replace(/:\d+$/, '')).toLowerCase();
  if (isIP(name) !== 0 || name === 'localhost' || name.endsWith('.localhost')) return true;
  const own = hostname().toLowerCase();
  return name === own || name === `${own}.local` || name === listening.toLowerCase();
}
