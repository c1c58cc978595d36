import type { Scrape } from './observe.ts';

/** What the network that answers for a task takes and gives, in the protocol's words. */
export interface TaskTensors {
  readonly inputs: readonly {
    readonly name: string;
    readonly datatype: string;
    /** Numbers, or texts of them. */
    readonly shape: readonly (number | string)[];
  }[];
  readonly outputs: TaskTensors['inputs'];
}

/** A server as the loop sees it. Both calls may throw; the loop reports that and goes on. */
export interface ServerAdapter {
  /** How logs call it. */
  readonly name: string;
  /**
   * @param tasks those decided about: where one of them does not serve, the answer tells whether it is being loaded
   * @throws BonsaiError `server_unreachable`, `invalid_config` (token), `invalid_request` (not understood)
   */
  observe(signal: AbortSignal, tasks?: readonly string[]): Promise<Scrape>;
  /**
   * Makes the version the one that answers; resolves when it does.
   * @throws BonsaiError `load_failed`, `model_not_found`, `version_not_found`, `not_ready`, `server_unreachable`
   */
  switchVersion(task: string, version: number, signal: AbortSignal): Promise<void>;
  /**
   * Makes these versions, and no others, resident; resolves when they are.
   * @param shares how requests that name no version are split among them, in any scale; undefined: the server's rule
   * @throws as `switchVersion`
   */
  setResident?(
    task: string,
    versions: readonly number[],
    shares: ReadonlyMap<number, number> | undefined,
    signal: AbortSignal,
  ): Promise<void>;
  /**
   * Lets go of all versions of a task; resolves when it does not serve any more.
   * @throws as `switchVersion`
   */
  unload?(task: string, signal: AbortSignal): Promise<void>;
  /** Of the version that answers; undefined where the server tells none. @throws as `observe` */
  tensors?(task: string, signal: AbortSignal): Promise<TaskTensors | undefined>;
  close(): Promise<void>;
}
