import { readdir, readFile, realpath, stat } from 'node:fs/promises';
import { join, relative, resolve, sep } from 'node:path';
import { systemReason } from '../base/errors.ts';
import { ModelNotFoundError } from '../repository/errors.ts';
import { isTaskName, parseVersion } from '../repository/names.ts';
import { InvalidRequestError } from './errors.ts';
import type { ModelRegistry } from './model-registry.ts';

export interface ModelMeshOptions {
  /** The folder into which ModelMesh's puller puts models; nothing is read from elsewhere. */
  readonly folder: string;
  /** Memory for models; ModelMesh unloads what is used least before it is exceeded. */
  readonly capacityBytes: number;
}

/** What a network takes for each thread that runs it, over the bytes of its file: its weights, once as they lie there and once prepared, and room to compute. */
export const MEMORY_PER_FILE_BYTE = 3;

/** A file of protocol buffers cannot be larger. */
const MAX_NETWORK_BYTES = 2 ** 31;

const MODEL_FILE = 'model.onnx';

/** Models as ModelMesh loads and unloads them: each by a name of its own, from a file that it says, beside the tasks of the repository. */
export class ModelMesh {
  readonly #models: ModelRegistry;
  readonly #slots: number;
  readonly #options: ModelMeshOptions;
  /** Bytes of what is loaded, by name. */
  readonly #sizes = new Map<string, number>();
  /** What was asked for last of each name, while it is under way: one after the other, also where the caller has gone. */
  readonly #underWay = new Map<string, Promise<unknown>>();

  constructor(models: ModelRegistry, slots: number, options: ModelMeshOptions) {
    this.#models = models;
    this.#slots = slots;
    this.#options = options;
  }

  get capacityBytes(): number {
    return this.#options.capacityBytes;
  }

  /**
   * Loads a network under a name; done when it answers. What is loaded under it already is replaced.
   * @param path an ONNX file below the folder, or a folder with one, or with one for each version: then the highest, but
   * version 1, the most accurate, where a `bonsai.json` says that it is a family
   * @returns bytes of memory, as `predict`
   * @throws InvalidRequestError where nothing was tried; LoadFailedError
   */
  load(id: string, path: string): Promise<number> {
    return this.#inTurn(id, async () => {
      if (!isTaskName(id)) throw new InvalidRequestError(`'${id.slice(0, 80)}' cannot name a model`);
      if (!this.#sizes.has(id) && this.#models.models.get(id)?.isReady === true)
        throw new InvalidRequestError(
          `'${id}' is a task of the server's own repository; load the model by another name`,
        );
      const network = await this.#networkAt(path);
      const bytes = await readFile(network.path);
      await this.#models.load(id, undefined, undefined, { files: new Map([[`1/${MODEL_FILE}`, bytes]]) });
      const size = this.#memoryOf(network.fileBytes);
      this.#sizes.set(id, size);
      return size;
    });
  }

  /** Unloads what `load` loaded; anything else is left as it is, and is no error. */
  unload(id: string): Promise<void> {
    return this.#inTurn(id, () => this.#unload(id));
  }

  /** Bytes of memory that a network would take, by the size of its file. @throws InvalidRequestError */
  async predict(path: string): Promise<number> {
    return this.#memoryOf((await this.#networkAt(path)).fileBytes);
  }

  /** @throws ModelNotFoundError unless `load` loaded it */
  sizeOf(id: string): number {
    const size = this.#sizes.get(id);
    if (size === undefined) throw new ModelNotFoundError(id);
    return size;
  }

  /** Unloads all that `load` loaded: a ModelMesh that starts believes that there is nothing. */
  async purge(): Promise<void> {
    await Promise.all(
      [...new Set([...this.#sizes.keys(), ...this.#underWay.keys()])].map((id) => this.unload(id)),
    );
  }

  async #unload(id: string): Promise<void> {
    if (!this.#sizes.has(id)) return;
    await this.#models.unload(id);
    this.#sizes.delete(id);
  }

  #inTurn<T>(id: string, work: () => Promise<T>): Promise<T> {
    const mine = (this.#underWay.get(id) ?? Promise.resolve()).then(work, work);
    this.#underWay.set(id, mine);
    const done = () => {
      if (this.#underWay.get(id) === mine) this.#underWay.delete(id);
    };
    mine.then(done, done);
    return mine;
  }

  #memoryOf(fileBytes: number): number {
    return MEMORY_PER_FILE_BYTE * fileBytes * this.#slots;
  }

  async #networkAt(path: string): Promise<{ readonly path: string; readonly fileBytes: number }> {
    const root = await this.#existing(this.#options.folder, this.#options.folder);
    // Links count as what they lead to.
    const given = await this.#existing(resolve(root, path), path);
    const found = (await stat(given)).isDirectory() ? await this.#within(given, path) : given;
    const file = await this.#existing(found, path);
    for (const each of [given, file]) {
      const way = relative(root, each);
      if (way === '..' || way.startsWith(`..${sep}`))
        throw new InvalidRequestError(`modelPath '${path.slice(0, 200)}' leads out of the folder of models`);
    }
    const { size } = await stat(file);
    if (size > MAX_NETWORK_BYTES)
      throw new InvalidRequestError(
        `modelPath '${path.slice(0, 200)}' has ${size} bytes, more than an ONNX file can have`,
      );
    return { path: file, fileBytes: size };
  }

  /** The network in a folder. */
  async #within(folder: string, path: string): Promise<string> {
    const names = await readdir(folder);
    if (names.includes(MODEL_FILE)) return join(folder, MODEL_FILE);
    const versions = names.flatMap((name) => parseVersion(name) ?? []);
    if (versions.length > 0)
      return join(
        folder,
        String(names.includes('bonsai.json') ? Math.min(...versions) : Math.max(...versions)),
        MODEL_FILE,
      );
    const networks = names.filter((name) => name.endsWith('.onnx'));
    if (networks.length === 1) return join(folder, networks[0]!);
    throw new InvalidRequestError(
      `modelPath '${path.slice(0, 200)}' has ${networks.length} ONNX files; expected ${MODEL_FILE}, one .onnx file, or <version>/${MODEL_FILE}`,
    );
  }

  async #existing(file: string, shown: string): Promise<string> {
    try {
      return await realpath(file);
    } catch (cause) {
      throw new InvalidRequestError(
        `modelPath '${shown.slice(0, 200)}' cannot be read: ${systemReason(cause)}`,
        {
          cause,
        },
      );
    }
  }
}
