/** From 0 to a round number above everything. */
export function fromZero(least: number): (min: number, max: number) => [number, number] {
  return (_min, max) => [0, roundUp(Math.max(least, (max ?? 0) * 1.08))];
}

/** 1, 2 or 5 times a power of ten, or what lies a fourth between. */
function roundUp(value: number): number {
  const power = 10 ** Math.floor(Math.log10(value));
  const step = [1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10].find((factor) => factor * power >= value) ?? 10;
  return step * power;
}

/** For a logarithmic axis that shows all of these. */
export function decades(lowest: number, highest: number): [number, number] {
  const low = Math.max(0.01, Math.min(lowest, highest / 10));
  return [low / 1.3, highest * 1.5];
}

/** More of them on a logarithmic axis would touch. */
const MAX_TICKS = 7;

/** 1, 2, 5, 10, 20, 50, …; fewer where these would be too many. */
export function logTicks(min: number, max: number): number[] {
  const choices = [[1, 2, 5], [1, 3], [1]].map((factors) => ticksOf(min, max, factors));
  return choices.find((ticks) => ticks.length <= MAX_TICKS) ?? choices.at(-1)!;
}

function ticksOf(min: number, max: number, factors: readonly number[]): number[] {
  const ticks: number[] = [];
  for (let exponent = Math.floor(Math.log10(min)); 10 ** exponent <= max; exponent++)
    for (const factor of factors) {
      const tick = factor * 10 ** exponent;
      if (tick >= min && tick <= max) ticks.push(tick);
    }
  return ticks;
}
