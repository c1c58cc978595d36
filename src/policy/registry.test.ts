import { expect, test } from 'vitest';
import { BonsaiError } from '../base/errors.ts';
import { dispatchPolicyByName, policyByName } from './registry.ts';
import { makeFrontier, makeState, makeTask } from './variants.fixture.ts';

const frontier = makeFrontier([0.9, 10], [0.8, 20], [0.7, 40]);

function codeOf(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    if (error instanceof BonsaiError) return error.code;
    throw error;
  }
  return 'none';
}

test('names give the policies that they say', () => {
  const names = [
    'static:largest',
    'static:smallest',
    'trivial:inverseThroughput',
    'trivial:latency',
    'trivial:flops',
  ];
  expect(names.map((name) => policyByName(name).name)).toEqual(names);
  expect(policyByName('trivial').name).toBe('trivial:inverseThroughput');
  expect(policyByName('trivial', { timeScale: 0.5 }).periodMs).toBe(500);
  expect(policyByName('bonsai:0.9').name).toBe('bonsai');
  for (const wrong of ['bonsai:0', 'bonsai:1.2', 'bonsai:half']) {
    expect(codeOf(() => policyByName(wrong))).toBe('unknown_policy');
  }
  expect(policyByName('static:digits=3,signs=1').name).toBe('static:digits=3,signs=1');
});

test('static policies bring each task to its version and keep it there', () => {
  const wanted = { 'static:largest': 1, 'static:smallest': 3, 'static:digits=2': 2 };
  for (const [name, toVersion] of Object.entries(wanted)) {
    const policy = policyByName(name);
    const away = makeTask({ frontier, servingVersion: toVersion === 1 ? 2 : 1 });
    expect(policy.decide(makeState({ tasks: [away] })).actions).toEqual([
      { kind: 'switch', task: 'digits', toVersion },
    ]);
    const there = makeTask({ frontier, servingVersion: toVersion });
    expect(policy.decide(makeState({ tasks: [there] })).actions).toEqual([]);
  }
});

test('a static version that is not on the frontier is told, not taken', () => {
  const decision = policyByName('static:digits=7').decide(makeState({ tasks: [makeTask({ frontier })] }));
  expect(decision.actions).toEqual([]);
  expect(decision.notice).toBe('version 7 of digits is not on its frontier (1, 2, 3).');
});

test('unknown names list the known ones', () => {
  expect(codeOf(() => policyByName('trivia'))).toBe('unknown_policy');
  expect(() => policyByName('static')).toThrow(/static:smallest.*trivial:flops/);
  expect(codeOf(() => policyByName('static:digits=0'))).toBe('invalid_argument');
  expect(codeOf(() => policyByName('static:digits=1,=2'))).toBe('invalid_argument');
});

test('the names of baselines give them; what needs several versions in memory is known by another function', () => {
  for (const name of ['model-switching', 'infaas', 'infaas:published', 'hpa', 'kpa', 'ray']) {
    expect(policyByName(name).name).toBe(name);
    expect(policyByName(name).dispatch).toBeUndefined();
  }
  for (const name of ['proteus', 'infadapter', 'slackfit', 'slackfit:queue-aware', 'blind-split:0.7']) {
    expect(codeOf(() => policyByName(name))).toBe('unknown_policy');
    expect(dispatchPolicyByName(name).name).toBe(name);
    expect(dispatchPolicyByName(name).dispatch).toBeDefined();
  }
  expect(() => dispatchPolicyByName('slackfitt')).toThrow(/static:largest.*slackfit:queue-aware/);
});

test('limits of maximal-metric are numbers above 0, for all tasks or by task', () => {
  const names = [
    'maximal-metric:0.1',
    'maximal-metric:latency:0.1',
    'maximal-metric:flops:digits=2e7,signs=1e7',
  ];
  expect(names.map((name) => policyByName(name).metric)).toEqual(['inverseThroughput', 'latency', 'flops']);
  for (const name of [
    'maximal-metric:',
    'maximal-metric:0',
    'maximal-metric:speed:1',
    'maximal-metric:a=b',
  ]) {
    expect(codeOf(() => policyByName(name))).toBe('invalid_argument');
  }
});

test('a time scale shortens what is ours to choose, not the intervals of products', () => {
  expect(policyByName('model-switching', { timeScale: 0.1 }).periodMs).toBe(100);
  expect(policyByName('infaas', { timeScale: 0.1 }).periodMs).toBe(100);
  expect(codeOf(() => policyByName('kpa', { timeScale: 0.1 }))).toBe('invalid_argument');
});

test('static policies tell of tasks that are not there, as of versions that are not', () => {
  const policy = policyByName('static:digits=2,digit=3');
  const state = makeState({ tasks: [makeTask({ task: 'digits', frontier, servingVersion: 1 })] });
  const { actions, notice } = policy.decide(state);
  expect(actions).toEqual([{ kind: 'switch', task: 'digits', toVersion: 2 }]);
  expect(notice).toBe('there is no task digit here (digits).');
});
