import { setFlagsFromString } from 'node:v8';

/**
 * By how much, in percent of what is alive, the heap may grow before it is collected whole. Bodies of requests lie outside
 * the heap, but press on it: V8 takes a server that was idle once for one that is to stay small, and with inputs of 28 KB
 * collected 9 times a second, which cost a fifth of the throughput. Takes some 40 MB more under load, nothing while idle.
 */
export const HEAP_GROWTH_PERCENT = 200;

/**
 * How much of a function is run before it is compiled for speed; 132 KB by default. A server that has answered a few hundred
 * requests is not compiled yet, and overload that begins then took half of the CPU from the inferences for half a second.
 */
export const INTERRUPT_BUDGET = 20_000;

/** Adapts V8 to serving, for the whole process; to be called before anything of it runs. */
export function adaptV8(): void {
  setFlagsFromString(`--heap-growing-percent=${HEAP_GROWTH_PERCENT}`);
  setFlagsFromString(`--interrupt-budget=${INTERRUPT_BUDGET}`);
}
