import { createHash, timingSafeEqual } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { InvalidArgumentError } from '../../base/errors.ts';

/** The bearer tokens of a server; undefined where none is asked for. */
export interface Tokens {
  /** Any of these lets a client infer and read; those of administration do so as well. */
  readonly inference?: readonly string[];
  /** Any of these lets a client load, unload and change settings. */
  readonly administration?: readonly string[];
}

/** What a client wants to do. */
export type Permission = 'inference' | 'administration';

/** Decides who may do what by the `authorization` header or metadata of a request. Knows no protocol. */
export class Access {
  #inference: readonly Buffer[] | undefined;
  #administration: readonly Buffer[] | undefined;

  constructor(tokens: Tokens = {}) {
    this.replace(tokens);
  }

  /** Whether administration asks for a token of its own. */
  get guardsAdministration(): boolean {
    return this.#administration !== undefined;
  }

  /** Other tokens from now on; connections stay. */
  replace({ inference, administration }: Tokens): void {
    this.#inference = inference?.map(digestOfToken);
    this.#administration = administration?.map(digestOfToken);
  }

  /**
   * @param authorization as sent, such as `Bearer abc`
   * @returns whether it is enough. Without tokens of administration, those of inference guard that as well.
   */
  allows(permission: Permission, authorization: string | undefined): boolean {
    const wanted = this.#wanted(permission);
    if (wanted === undefined) return true;
    const given = digestOfToken(/^Bearer +(\S+) *$/i.exec(authorization ?? '')?.[1] ?? '');
    let isKnown = false;
    // Digests have equal lengths and all are compared, so that the time tells nothing about any token.
    for (const digest of wanted) if (timingSafeEqual(given, digest)) isKnown = true;
    return isKnown;
  }

  /** Whether any token is needed for that. */
  asksFor(permission: Permission): boolean {
    return this.#wanted(permission) !== undefined;
  }

  #wanted(permission: Permission): readonly Buffer[] | undefined {
    return permission === 'administration'
      ? (this.#administration ?? this.#inference)
      : this.#inference && [...this.#inference, ...(this.#administration ?? [])];
  }
}

/**
 * The tokens of a file, one a line, so that a new one can be added before the old one goes.
 * @throws InvalidArgumentError if it cannot be read, or holds none or one that no header can carry
 */
export async function readTokens(file: string): Promise<string[]> {
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (cause) {
    throw new InvalidArgumentError(`The token file ${file} cannot be read.`, { cause });
  }
  const tokens = text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '');
  if (tokens.length === 0) throw new InvalidArgumentError(`The token file ${file} is empty.`);
  if (!tokens.every((token) => /^[\x21-\x7e]+$/.test(token))) {
    throw new InvalidArgumentError(
      `The token file ${file} must hold one token a line, of visible ASCII characters without spaces.`,
    );
  }
  return tokens;
}

function digestOfToken(token: string): Buffer {
  return createHash('sha256').update(token).digest();
}
