import { z } from 'zod';
import { InvalidRequestError } from '../errors.ts';
import { type Json, parseJson } from '../json.ts';
import {
  checkLoadParameter,
  checkShape,
  FILE_PREFIX,
  type LoadParameters,
  MAX_ADMINISTRATIVE_DEPTH,
} from '../load-request.ts';
import type { IndexEntry, ModelRegistry } from '../model-registry.ts';

/** The index, of all models or, where the body says `{"ready": true}`, of the ready ones. */
export async function repositoryIndex(models: ModelRegistry, body: Json): Promise<readonly IndexEntry[]> {
  const { ready } = checkShape(z.looseObject({ ready: z.boolean().optional() }), body, 'the request');
  const entries = await models.index();
  return ready === true ? entries.filter((entry) => entry.state === 'READY') : entries;
}

/** What the body of a load says: all parameters are strings, files in base64. @throws InvalidRequestError */
export function loadParametersOf(body: Json): LoadParameters {
  const request = z.looseObject({ parameters: z.record(z.string(), z.string()).optional() });
  const { parameters = {} } = checkShape(request, body, 'the request');
  const files = new Map<string, Uint8Array>();
  for (const [name, text] of Object.entries(parameters)) {
    checkLoadParameter(name);
    if (name.startsWith(FILE_PREFIX)) files.set(name.slice(FILE_PREFIX.length), fileOf(name, text));
  }
  return { config: parameters.config, files };
}

/** Stops serving a model. That it has no dependents, which could be asked for, makes no difference. */
export async function unloadModel(models: ModelRegistry, name: string, body: Json): Promise<void> {
  const parameters = z.looseObject({ unload_dependents: z.boolean().optional() });
  checkShape(z.looseObject({ parameters: parameters.optional() }), body, 'the request');
  await models.unload(name);
}

/** A body of JSON up to here is read at once; a larger one holds a network in base64. */
const INLINE_BYTES = 128 * 1024;

/**
 * The JSON of an administrative body; `{}` where there is none.
 * @param parseLarge reads large ones where that holds up nobody
 */
export function jsonBody(
  body: Uint8Array,
  parseLarge: (body: Uint8Array, maxDepth: number) => Promise<Json>,
): Json | Promise<Json> {
  if (body.byteLength === 0) return {};
  return body.byteLength <= INLINE_BYTES
    ? parseJson(body, MAX_ADMINISTRATIVE_DEPTH)
    : parseLarge(body, MAX_ADMINISTRATIVE_DEPTH);
}

function fileOf(name: string, text: string): Uint8Array {
  const bytes = Buffer.from(text, 'base64');
  const digits = text.endsWith('==') ? text.length - 2 : text.length - Number(text.endsWith('='));
  // The decoder passes over what is no base64, so that too few bytes come out.
  if (bytes.byteLength !== Math.floor((digits * 3) / 4))
    throw new InvalidRequestError(`'${name.slice(0, 80)}' is no base64`);
  return bytes;
}
