import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { BonsaiError, systemReason } from '../base/errors.ts';
import { digestOf } from '../repository/digest.ts';
import { isTaskName, parseVersion } from '../repository/names.ts';
import type { StoredTask, StoredVersion } from '../repository/store.ts';
import { InvalidRequestError } from './errors.ts';

/** Networks that came with a load request and stand in for those of the repository. */
export interface FileOverride {
  readonly stored: StoredTask;
  /** Removes the files; what is loaded of them stays loaded. */
  dispose(): Promise<void>;
}

const MODEL_FILE = 'model.onnx';

/** Network and external weights of some versions; nobody sends more. */
export const MAX_FILES = 64;

/**
 * Checks and writes the files of a load request, `<version>/<name>` each, into a folder of their own. Their digests are
 * taken from the request, and checked again whenever one of them is loaded.
 * @throws InvalidRequestError for names that lead elsewhere, or a version without its network
 * @throws BonsaiError `unwritable_path` where there is no room for them
 */
export async function writeFileOverride(
  task: string,
  files: ReadonlyMap<string, Uint8Array>,
): Promise<FileOverride> {
  const byVersion = checkedFiles(task, files);
  let folder: string | undefined;
  const dispose = async () => {
    if (folder !== undefined) await rm(folder, { recursive: true, force: true });
  };
  try {
    folder = await mkdtemp(join(tmpdir(), 'bonsai-override-'));
    const versions: StoredVersion[] = [];
    for (const [version, own] of [...byVersion].sort(([a], [b]) => a - b)) {
      await mkdir(join(folder, String(version)));
      for (const [name, bytes] of own) await writeFile(join(folder, String(version), name), bytes);
      const network = own.get(MODEL_FILE)!; // Its presence was checked.
      const digest = digestOf(network);
      versions.push({
        version,
        modelPath: join(folder, String(version), MODEL_FILE),
        sizeBytes: network.byteLength,
        identity: [...own].map(([name, bytes]) => `${name}:${digestOf(bytes)}`).join(' '),
        digest,
      });
    }
    return { stored: { task, versions, problems: [] }, dispose };
  } catch (thrown) {
    await dispose();
    throw new BonsaiError(
      'unwritable_path',
      `load failed for model '${task}': its files cannot be written to the server's temporary folder: ${systemReason(thrown)}. ` +
        'Free some space there, or start the server with another one (TMPDIR).',
      { cause: thrown },
    );
  }
}

function checkedFiles(
  task: string,
  files: ReadonlyMap<string, Uint8Array>,
): ReadonlyMap<number, ReadonlyMap<string, Uint8Array>> {
  if (files.size > MAX_FILES)
    throw new InvalidRequestError(`a load request may hold ${MAX_FILES} files, got ${files.size}`);
  const byVersion = new Map<number, Map<string, Uint8Array>>();
  for (const [path, bytes] of files) {
    const [folder = '', name = '', ...more] = path.split('/');
    const version = parseVersion(folder);
    if (version === undefined || more.length > 0 || !isTaskName(name)) {
      throw new InvalidRequestError(
        `'file:${path.slice(0, 80)}' of model '${task}' must be 'file:<version>/<name>', such as 'file:1/${MODEL_FILE}'`,
      );
    }
    const own = byVersion.get(version) ?? new Map<string, Uint8Array>();
    byVersion.set(version, own.set(name, bytes));
  }
  for (const [version, own] of byVersion) {
    if (own.has(MODEL_FILE)) continue;
    throw new InvalidRequestError(
      `version ${version} of model '${task}' has no 'file:${version}/${MODEL_FILE}'; it has ${[...own.keys()].join(', ')}`,
    );
  }
  return byVersion;
}
