import { describe, expect, it } from 'vitest';
import { makeManifest } from '../results.fixture.ts';
import { familyOf } from './experiment.ts';

/** A family as its user has it. */
const came = makeManifest('digits', [0.9, 0.88, 0.8]);
/** The same, twice as fast: as profiled on this machine. */
const here = {
  ...came,
  variants: came.variants.map((variant) => {
    const profile = variant.profiles.f!;
    const median = 2 * profile.throughputRps.median;
    return {
      ...variant,
      profiles: { f: { ...profile, throughputRps: { ...profile.throughputRps, median } } },
    };
  }),
};

describe('the family that the gain of pruning is read from', () => {
  it('has this machine’s profiles where it made all', () => {
    const { family, isFamilyAsItCame } = familyOf({ families: [came] }, { source: 'digits', manifest: here });
    expect(isFamilyAsItCame).toBe(false);
    expect(family.map(({ throughputRps }) => throughputRps)).toEqual([200, 400, 800]);
  });

  it('has the profiles it came with where only some were made, so that all are of one machine', () => {
    const manifest = { ...here, variants: here.variants.slice(1) };
    const { family, isFamilyAsItCame } = familyOf({ families: [came] }, { source: 'digits', manifest });
    expect(isFamilyAsItCame).toBe(true);
    expect(family.map(({ throughputRps }) => throughputRps)).toEqual([100, 200, 400]);
  });
});
