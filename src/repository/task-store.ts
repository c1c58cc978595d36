import { listFolders, listTasks, readTask, type StoredTask } from './store.ts';

/** Where a server finds its tasks: a folder of this machine, or a bucket that is mirrored here. */
export interface TaskStore {
  /** What people call it: the path or the URL. */
  readonly name: string;
  /** A folder of this machine in which each task has one for its description (`bonsai.json`, `config.pbtxt`, labels). */
  readonly folder: string;
  /** @throws BonsaiError `missing_file` if there is no repository */
  listTasks(): Promise<string[]>;
  /** Those of `listTasks` and all else that lies beside them. */
  listFolders(): Promise<string[]>;
  /** @throws ModelNotFoundError, CorruptRepositoryError */
  readTask(task: string): Promise<StoredTask>;
}

export function folderStore(folder: string): TaskStore {
  return {
    name: folder,
    folder,
    listTasks: () => listTasks(folder),
    listFolders: () => listFolders(folder),
    readTask: (task) => readTask(folder, task),
  };
}
