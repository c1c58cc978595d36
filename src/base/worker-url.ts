/**
 * Where a worker thread's compiled entry file lies, seen from the module that starts it: the sibling `.js`
 * of a compiled module, or, when the sources themselves run (under the test runner), the same file in `dist/`,
 * because worker threads of Node 20 cannot run TypeScript. `npm test` builds first for that reason.
 * @param moduleUrl the caller's `import.meta.url`
 * @param name the worker's file name without extension, beside the caller
 */
export function workerUrl(moduleUrl: string, name: string): URL {
  const compiled = moduleUrl.endsWith('.ts')
    ? moduleUrl.replace(/\/src\/(?!.*\/src\/)/, '/dist/')
    : moduleUrl;
  return new URL(`./${name}.js`, compiled);
}
