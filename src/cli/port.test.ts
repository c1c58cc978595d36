import { expect, it } from 'vitest';
import { parseCriteria } from './port.ts';

it('reads criteria in the order in which they are to be tried', () => {
  expect(parseCriteria('taylor,l2')).toEqual(['taylor', 'l2']);
  for (const text of ['l2,l2', 'l3', '', 'l2,'])
    expect(() => parseCriteria(text)).toThrow(/each once, of l1, l2/);
});
