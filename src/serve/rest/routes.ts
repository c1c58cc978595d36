import { InvalidRequestError } from '../errors.ts';
import { HttpError, MethodNotAllowedError } from './errors.ts';

/** What a request asks for. */
export type Route =
  | { readonly kind: 'server_metadata' | 'live' | 'ready' | 'all_statistics' | 'index' }
  | { readonly kind: ModelRoute; readonly model: string; readonly version: number | undefined }
  | { readonly kind: 'load' | 'unload'; readonly model: string };

type ModelRoute = 'model_metadata' | 'model_ready' | 'config' | 'statistics' | 'infer';

const MODEL_ROUTES: ReadonlyMap<string | undefined, readonly [ModelRoute, 'GET' | 'POST']> = new Map([
  [undefined, ['model_metadata', 'GET']],
  ['ready', ['model_ready', 'GET']],
  ['config', ['config', 'GET']],
  ['stats', ['statistics', 'GET']],
  ['infer', ['infer', 'POST']],
] as const);

/**
 * Finds the route of a method and a path. Names are decoded but never trusted: they are looked up, not used as paths.
 * @throws HttpError 404 for an unknown route, 405 for a wrong method, 501 for a named repository
 * @throws InvalidRequestError for digits that cannot be a version
 */
export function routeOf(method: string | undefined, url: string): Route {
  const query = url.indexOf('?');
  const path = query < 0 ? url : url.slice(0, query);
  const parts = path.split('/');
  if (parts.at(-1) === '') parts.pop(); // A trailing slash changes nothing.
  if (parts[0] !== '' || parts[1] !== 'v2') throw notFound();
  const [, , first, second, third] = parts;
  switch (first) {
    case undefined:
      return allow(method, ['GET'], { kind: 'server_metadata' });
    case 'health':
      if (parts.length === 4 && (second === 'live' || second === 'ready'))
        return allow(method, ['GET'], { kind: second });
      break;
    case 'models':
      if (parts.length === 4 && second === 'stats') return allow(method, ['GET'], { kind: 'all_statistics' });
      if (second !== undefined) return modelRoute(method, decode(second), parts.slice(4));
      break;
    case 'systemsharedmemory':
    case 'cudasharedmemory':
      throw notOffered('shared memory');
    case 'trace':
      if (parts.length === 4 && second === 'setting') throw notOffered('trace');
      break;
    case 'logging':
      if (parts.length === 3) throw notOffered('logging');
      break;
    case 'repository':
      if (parts.length === 4 && second === 'index') return allow(method, ['POST'], { kind: 'index' });
      if (parts.length === 5 && third === 'index') return allow(method, ['POST'], { kind: 'index' });
      if (parts.length === 6 && second === 'models') return repositoryRoute(method, decode(third!), parts[5]);
      if (parts.length === 7 && third === 'models')
        throw new HttpError(501, "'repository_name' specification is not supported");
      break;
  }
  throw notFound();
}

/** Extensions of Triton's that exist but are not served; the server's metadata does not name them. */
function notOffered(extension: string): HttpError {
  return new HttpError(501, `the ${extension} extension is not offered`);
}

function modelRoute(method: string | undefined, model: string, rest: readonly string[]): Route {
  const isVersioned = rest[0] === 'versions';
  const version = isVersioned ? versionOf(rest[1]) : undefined;
  const [action, ...more] = isVersioned ? rest.slice(2) : rest;
  const route = MODEL_ROUTES.get(action);
  if (action === 'trace' && more.length === 1 && more[0] === 'setting' && !isVersioned)
    throw notOffered('trace');
  if ((action === 'generate' || action === 'generate_stream') && more.length === 0)
    throw notOffered('generate');
  if (route === undefined || more.length > 0) throw notFound();
  return allow(method, [route[1]], { kind: route[0], model, version });
}

/**
 * Digits only, or the route does not exist. Any number that is written as numbers are may be asked for, and is not
 * found later if no model has it; what a number cannot hold exactly, or is padded with zeros, would come out as another
 * version than the caller wrote.
 */
function versionOf(text: string | undefined): number {
  if (text === undefined || !/^[0-9]+$/.test(text)) throw notFound();
  const version = Number(text);
  if (Number.isSafeInteger(version) && String(version) === text) return version;
  const shown = text.length > MAX_SHOWN_DIGITS ? `${text.slice(0, MAX_SHOWN_DIGITS)}…` : text;
  throw new InvalidRequestError(
    `'${shown}' is not a model version: expected an integer from 1 to ${Number.MAX_SAFE_INTEGER}, without leading zeros`,
  );
}

/** Longer versions are cut in messages; 64-bit integers have at most 19 digits. */
const MAX_SHOWN_DIGITS = 24;

function repositoryRoute(method: string | undefined, model: string, action: string | undefined): Route {
  if (action !== 'load' && action !== 'unload') throw notFound();
  return allow(method, ['POST'], { kind: action, model });
}

function allow(method: string | undefined, methods: readonly string[], route: Route): Route {
  if (method !== undefined && methods.includes(method)) return route;
  throw new MethodNotAllowedError(methods);
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    throw notFound();
  }
}

function notFound(): HttpError {
  return new HttpError(404, 'Not Found');
}
