import { readdir, readFile, rm, rmdir, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { BonsaiError, InvalidArgumentError, messageOf, systemCodeOf } from '../base/errors.ts';
import { linkAtomically, writeAtomically } from './atomic.ts';
import { checkDigest, digestOf } from './digest.ts';
import { CorruptRepositoryError, ModelNotFoundError } from './errors.ts';
import { manifestText, type ParsedManifest, parseManifest } from './manifest.ts';
import type { Warmup } from './model-config.ts';
import { checkTaskName, checkVersion, isTaskName, parseVersion } from './names.ts';
import { LABELS_FILE, tritonConfigOf } from './triton-config.ts';
import type { TaskManifest, Variant } from './types.ts';

/** A task as it lies in the repository. */
export interface StoredTask {
  readonly task: string;
  /** Undefined for a folder in Triton's layout that Bonsai did not make: its accuracies are unknown. */
  readonly manifest?: TaskManifest;
  /** Whether the manifest names its own digest, so that damage to it is noticed. Undefined without a manifest. */
  readonly hasManifestDigest?: boolean;
  /** Ascending; those whose files are there. */
  readonly versions: readonly StoredVersion[];
  /** Versions that the manifest names but that are missing or of the wrong size. */
  readonly problems: readonly VersionProblem[];
  /** Inferences to run before a version counts as ready, where a configuration asks for them. */
  readonly warmups?: readonly Warmup[];
  /** The labels of classes by output, where they come from a configuration and not from a manifest. */
  readonly labels?: ReadonlyMap<string, readonly string[]>;
  /** The folder that names of files in a configuration start from. */
  readonly folder?: string;
}

export interface StoredVersion {
  readonly version: number;
  readonly modelPath: string;
  readonly sizeBytes: number;
  /** Changes whenever the file may have changed: the digest, or size and time where there is no manifest. */
  readonly identity: string;
  readonly variant?: Variant;
  /** SHA-256 that the network must have when it is loaded, where no variant says so. */
  readonly digest?: string;
  /**
   * Brings the network to `modelPath`, where it may not be yet, and keeps it there until the answer is called. Absent:
   * it lies there.
   * @throws StoreError, CorruptRepositoryError
   */
  readonly hold?: () => Promise<() => void>;
}

export interface VersionProblem {
  readonly version: number;
  readonly error: CorruptRepositoryError;
}

const MANIFEST_FILE = 'bonsai.json';
const CONFIG_FILE = 'config.pbtxt';
const MODEL_FILE = 'model.onnx';

/**
 * Writes a task so that a reader sees the family of before or the new one at every moment, and never a version whose
 * network is not the one that the manifest means: each file comes under a temporary name that is then renamed, the
 * manifest comes last, and a number that meant another network is not reused before a manifest without it is in
 * place: for that moment the new family stands under numbers beyond all others. Networks of versions that are no longer
 * named are removed in the end.
 * @param models the networks by version: bytes, or the path of a file to take; those that lie in the task already,
 *   under whatever version, need no entry
 * @throws InvalidArgumentError if a network is missing or is not the one that its variant's digest names
 * @throws BonsaiError `unwritable_path`
 */
export async function writeTask(
  root: string,
  manifest: TaskManifest,
  models: ReadonlyMap<number, Uint8Array | string>,
): Promise<void> {
  const { task, variants } = manifest;
  const folder = join(root, checkTaskName(task));
  // What would not be read back is not written.
  parseManifest(manifestText(manifest), join(folder, MANIFEST_FILE));
  // Where there is no manifest that can be read, there is no family of before that a reader could see.
  const before = (await readManifest(root, task).catch(() => undefined))?.variants ?? [];
  const holders = new Map(before.map(({ digest, version }) => [digest, version]));
  const networks = new Map<number, Uint8Array | string>();
  for (const variant of variants) {
    const holder = holders.get(variant.digest) ?? variant.version;
    const given = models.get(variant.version) ?? modelPathOf(root, task, holder);
    await checkNetwork(given, task, variant);
    networks.set(variant.version, given);
  }

  const meant = new Map(before.map(({ version, digest }) => [version, digest]));
  const isContested = variants.some(({ version, digest }) => (meant.get(version) ?? digest) !== digest);
  const passing = isContested ? await beyondAll(folder, variants) : [];
  if (isContested) {
    await place(
      root,
      task,
      new Map(passing.map((version, i) => [version, networks.get(variants[i]!.version)!])),
    );
    const moved = variants.map((variant, i) => ({ ...variant, version: passing[i]! }));
    await writeManifest(folder, { ...manifest, variants: moved });
    for (const [i, { version }] of variants.entries())
      networks.set(version, modelPathOf(root, task, passing[i]!));
  }
  await place(root, task, networks);
  await writeDescription(root, manifest);
  for (const version of [...passing, ...meant.keys()])
    if (!networks.has(version)) await removeNetwork(root, task, version);
}

/** Writes all of a task but its networks, the manifest last. @throws BonsaiError `unwritable_path` */
export async function writeDescription(root: string, manifest: TaskManifest): Promise<void> {
  const folder = join(root, checkTaskName(manifest.task));
  for (const [name, text] of descriptionFiles(manifest)) await writeAtomically(join(folder, name), text);
  await writeManifest(folder, manifest);
}

/** What Triton reads beside the networks, by file name. */
export function descriptionFiles(manifest: TaskManifest): ReadonlyMap<string, string> {
  const config = [CONFIG_FILE, tritonConfigOf(manifest)] as const;
  if (manifest.classes === undefined) return new Map([config]);
  return new Map([[LABELS_FILE, `${manifest.classes.join('\n')}\n`], config]);
}

async function writeManifest(folder: string, manifest: TaskManifest): Promise<void> {
  await writeAtomically(join(folder, MANIFEST_FILE), manifestText(manifest));
}

/** @throws InvalidArgumentError if the network is not the one that the variant describes */
async function checkNetwork(given: Uint8Array | string, task: string, variant: Variant): Promise<void> {
  const bytes = typeof given === 'string' ? await readModel(given, task, variant.version) : given;
  const digest = digestOf(bytes);
  if (digest === variant.digest && bytes.byteLength === variant.sizeBytes) return;
  throw new InvalidArgumentError(
    `Version ${variant.version} of "${task}" is described as ${variant.sizeBytes} bytes with digest ${variant.digest}, but the network given has ${bytes.byteLength} bytes with digest ${digest}.`,
  );
}

/** As many version numbers as there are variants, above all that they and the folder have, ascending. */
async function beyondAll(folder: string, variants: readonly Variant[]): Promise<number[]> {
  const lying = (await readdir(folder)).map((name) => parseVersion(name) ?? 0);
  const highest = Math.max(...lying, ...variants.map(({ version }) => version));
  return variants.map((_, i) => checkVersion(highest + 1 + i));
}

async function place(
  root: string,
  task: string,
  networks: ReadonlyMap<number, Uint8Array | string>,
): Promise<void> {
  for (const [version, network] of networks) {
    const path = modelPathOf(root, task, version);
    if (typeof network !== 'string') await writeAtomically(path, network);
    else if (network !== path) await linkAtomically(network, path);
  }
}

/** Removes a version's network, and its folder if nothing else lies there. */
async function removeNetwork(root: string, task: string, version: number): Promise<void> {
  const path = modelPathOf(root, task, version);
  await rm(path, { force: true }).catch(() => undefined); // What cannot be removed is named nowhere any more.
  await rmdir(dirname(path)).catch(() => undefined);
}

/** The names of the folders that hold a task, in alphabetical order. An absent repository is an error, an empty one is not. */
export async function listTasks(root: string): Promise<string[]> {
  const tasks: string[] = [];
  for (const name of (await listFolders(root)).filter(isTaskName)) {
    const contents = await readdir(join(root, name)).catch(() => []);
    if (contents.some((entry) => entry === MANIFEST_FILE || parseVersion(entry) !== undefined))
      tasks.push(name);
  }
  return tasks;
}

/** Why a repository cannot be read, and what to do. */
function problemOf(root: string, cause: unknown): string {
  if (root.startsWith('s3://'))
    return `${messageOf(cause)} A bucket has to be brought here first: bonsai repo pull '${root}' FOLDER`;
  const code = systemCodeOf(cause);
  if (code === 'ENOENT')
    return 'there is no such folder. bonsai port MODEL.onnx --data … --out FOLDER makes one.';
  if (code === 'ENOTDIR')
    return 'it is a file. A network becomes a repository by bonsai port MODEL.onnx --data … --out FOLDER, or as FOLDER/TASK/1/model.onnx.';
  return messageOf(cause);
}

/**
 * The names of all folders of a repository, tasks or not, in alphabetical order; hidden ones are left out. A link that
 * leads nowhere counts, since it was meant to lead to a folder.
 * @throws BonsaiError `missing_file` if there is no repository
 */
export async function listFolders(root: string): Promise<string[]> {
  let names: string[];
  try {
    names = await readdir(root);
  } catch (cause) {
    throw new BonsaiError(
      'missing_file',
      `Cannot read the model repository ${root}: ${problemOf(root, cause)}`,
      {
        cause,
      },
    );
  }
  const folders: string[] = [];
  for (const name of names.filter((entry) => !entry.startsWith('.'))) {
    const status = await stat(join(root, name)).catch(() => undefined);
    if (status === undefined || status.isDirectory()) folders.push(name);
  }
  return folders.sort();
}

/**
 * Reads a task: its manifest where it has one, and the versions whose files are there. Networks are not read;
 * `verifyVariant` does that.
 * @throws ModelNotFoundError if there is no such folder or the name cannot be one
 * @throws CorruptRepositoryError if the manifest is damaged
 */
export async function readTask(root: string, task: string): Promise<StoredTask> {
  if (!isTaskName(task)) throw new ModelNotFoundError(task);
  let folders: string[];
  try {
    folders = await readdir(join(root, task));
  } catch (cause) {
    if (ABSENT.has(systemCodeOf(cause))) throw new ModelNotFoundError(task);
    throw new CorruptRepositoryError({
      file: join(root, task),
      problem: `cannot be read (${messageOf(cause)}).`,
      cause,
    });
  }
  if (!folders.includes(MANIFEST_FILE)) return readForeignTask(root, task, folders);
  const { manifest, hasDigest } = await readManifestFile(root, task);
  const versions: StoredVersion[] = [];
  const problems: VersionProblem[] = [];
  for (const variant of manifest.variants) {
    const modelPath = modelPathOf(root, task, variant.version);
    const size = await fileSizeOf(modelPath);
    if (size === variant.sizeBytes) {
      versions.push({
        version: variant.version,
        modelPath,
        sizeBytes: size,
        identity: variant.digest,
        variant,
      });
    } else {
      const problem =
        size === undefined ? 'is missing' : `has ${size} bytes; the manifest says ${variant.sizeBytes}`;
      const error = new CorruptRepositoryError({
        file: modelPath,
        problem: `${problem}. Version ${variant.version} of "${task}" cannot be served; write it again.`,
      });
      problems.push({ version: variant.version, error });
    }
  }
  return { task, manifest, hasManifestDigest: hasDigest, versions, problems };
}

/** System codes that say that something is not there, rather than that it cannot be read. */
const ABSENT: ReadonlySet<string | undefined> = new Set(['ENOENT', 'ENOTDIR']);

/**
 * Reads only the manifest of a task.
 * @throws ModelNotFoundError if there is none, CorruptRepositoryError if it is damaged
 */
export async function readManifest(root: string, task: string): Promise<TaskManifest> {
  return (await readManifestFile(root, task)).manifest;
}

async function readManifestFile(root: string, task: string): Promise<ParsedManifest> {
  if (!isTaskName(task)) throw new ModelNotFoundError(task);
  const file = join(root, task, MANIFEST_FILE);
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (cause) {
    if (ABSENT.has(systemCodeOf(cause))) throw new ModelNotFoundError(task);
    throw new CorruptRepositoryError({ file, problem: `cannot be read (${messageOf(cause)}).`, cause });
  }
  const parsed = parseManifest(text, file);
  const { manifest } = parsed;
  if (manifest.task !== task) {
    throw new CorruptRepositoryError({
      file,
      field: 'task',
      problem: `is "${manifest.task}"; the folder is "${task}".`,
    });
  }
  return parsed;
}

/**
 * Reads a variant's network and checks that it is the one the manifest means.
 * @returns the bytes of `model.onnx`
 * @throws CorruptRepositoryError if the digest differs
 */
export async function verifyVariant(root: string, task: string, variant: Variant): Promise<Uint8Array> {
  const bytes = await readModel(modelPathOf(root, task, variant.version), task, variant.version);
  checkDigest(bytes, variant.digest, modelPathOf(root, task, variant.version));
  return bytes;
}

/** Where a task's description lies. */
export function manifestPathOf(root: string, task: string): string {
  return join(root, checkTaskName(task), MANIFEST_FILE);
}

/** Where a version's network lies. Checks both parts, so no name can lead out of the repository. */
export function modelPathOf(root: string, task: string, version: number): string {
  return join(root, checkTaskName(task), String(checkVersion(version)), MODEL_FILE);
}

async function readForeignTask(root: string, task: string, folders: readonly string[]): Promise<StoredTask> {
  const versions: StoredVersion[] = [];
  for (const folder of folders) {
    const version = parseVersion(folder);
    if (version === undefined) continue;
    const modelPath = modelPathOf(root, task, version);
    const status = await stat(modelPath).catch(() => undefined);
    if (status?.isFile() !== true) continue;
    versions.push({
      version,
      modelPath,
      sizeBytes: status.size,
      identity: [status.size, status.mtimeMs, status.ctimeMs, status.ino].join('@'),
    });
  }
  if (versions.length === 0) throw new ModelNotFoundError(task);
  return { task, versions: versions.sort((a, b) => a.version - b.version), problems: [] };
}

async function fileSizeOf(path: string): Promise<number | undefined> {
  const status = await stat(path).catch(() => undefined);
  return status?.isFile() === true ? status.size : undefined;
}

async function readModel(path: string, task: string, version: number): Promise<Uint8Array> {
  try {
    return await readFile(path);
  } catch (cause) {
    throw new BonsaiError(
      'missing_file',
      `The network of version ${version} of "${task}" cannot be read from ${path}: ${messageOf(cause)}`,
      { cause },
    );
  }
}
