import { existsSync } from 'node:fs';
import { extname, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { BonsaiError, InvalidArgumentError, messageOf, systemCodeOf } from '../base/errors.ts';
import { periodMsOf } from '../policy/checked-decision.ts';
import type { Policy } from '../policy/policy.ts';

/** How long the module of a policy may take until it is there. */
const LOAD_LIMIT_MS = 10_000;

const ENDINGS = ['.mjs', '.js', '.ts', '.mts'];

/** Whether a `--policy` means a file: it has the ending of a module, or a path separator. */
export function isPolicyFile(spec: string): boolean {
  return ENDINGS.includes(extname(spec)) || spec.includes('/') || spec.includes('\\');
}

/**
 * The policy that a module exports as `policy` (or as default). TypeScript runs where Node.js strips types (22.18 and
 * later) or a loader is installed (`node --import tsx`).
 * @throws BonsaiError `missing_file`, `unsupported` (TypeScript where it does not run)
 * @throws InvalidArgumentError for a module that cannot be loaded, or not within 10 s, or exports no policy
 */
export async function readPolicyFile(file: string): Promise<Policy> {
  const path = resolve(file);
  if (!existsSync(path)) throw new BonsaiError('missing_file', `There is no policy file ${file}.`);
  let module: Record<string, unknown>;
  const limit = new AbortController();
  try {
    module = await Promise.race([
      import(pathToFileURL(path).href) as Promise<Record<string, unknown>>,
      // A module may wait for ever at its top level; a pending import alone would let the process end without a word.
      delay(LOAD_LIMIT_MS, undefined, { signal: limit.signal }).then(() => {
        throw new Error(`its top level has not ended after ${LOAD_LIMIT_MS / 1000} s`);
      }),
    ]);
  } catch (cause) {
    if (systemCodeOf(cause) === 'ERR_UNKNOWN_FILE_EXTENSION') {
      throw new BonsaiError(
        'unsupported',
        `${file} is TypeScript, which Node.js ${process.versions.node} does not run. Use Node.js 22.18 or later, install ` +
          'tsx in your project and set NODE_OPTIONS="--import tsx", or write it as JavaScript (.mjs).',
        { cause },
      );
    }
    throw new InvalidArgumentError(`The policy file ${file} cannot be loaded: ${messageOf(cause)}`, {
      cause,
    });
  } finally {
    limit.abort();
  }
  const policy = module.policy ?? module.default;
  const problem = problemOf(policy);
  if (problem !== undefined) {
    throw new InvalidArgumentError(
      `${file} must export \`policy\`, an object { name, decide(state), dispatch? }: ${problem}.`,
    );
  }
  const found = policy as Policy; // problemOf has looked.
  periodMsOf(found);
  return found;
}

function problemOf(policy: unknown): string | undefined {
  if (typeof policy !== 'object' || policy === null)
    return `it exports ${policy === null ? 'null' : typeof policy}`;
  const { name, decide, dispatch } = policy as Record<string, unknown>;
  if (typeof name !== 'string' || name === '') return 'its name is no text';
  if (typeof decide !== 'function') return 'its decide is no function';
  if (dispatch === undefined) return undefined;
  const pick =
    typeof dispatch === 'object' && dispatch !== null ? (dispatch as { pick?: unknown }).pick : undefined;
  return typeof pick === 'function' ? undefined : 'its dispatch has no function pick(state)';
}
