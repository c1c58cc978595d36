import { expect, it } from 'vitest';
import type { PortProgress } from '../port/pipeline.ts';
import { portProgress } from './port.ts';
import { silentProgress } from './progress.ts';

it('says how much of an earlier run was reused: all, a part, or nothing', () => {
  const after = (...states: PortProgress['state'][]) => {
    const progress = portProgress({ progress: silentProgress }, [0.5]);
    for (const state of states) progress.show({ step: 'evaluate', variant: 0, variants: 2, state });
    return progress.reuse();
  };
  expect(after('reused', 'reused')).toBe('Reused all 2 steps of an earlier run.');
  expect(after('reused', 'reused', 'running', 'finished')).toBe(
    'Reused 2 of 3 steps from an earlier run; 1 done now.',
  );
  expect(after('running', 'finished')).toBeUndefined();
});
