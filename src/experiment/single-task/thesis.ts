/** Section 5.4.1 and figures 5.11 to 5.16. V1 is the largest version (4.3 inferences per second), V6 the smallest (76). */
export const THESIS_SINGLE_TASK = [
  {
    run: 'static V1, linear growth (Fig. 5.12)',
    says: 'full utilisation at 4 requests/s, where almost all are late; the queue explodes at 5',
  },
  {
    run: 'static V6, exponential growth (Fig. 5.13)',
    says: 'no violations up to the limit of 76 requests/s; accuracy minimal',
  },
  {
    run: 'trivial, exponential growth to 129 requests/s (Fig. 5.14)',
    says: 'each change of version violates the objective for a short time; versions 2 and 4 are skipped (steps of 40 % at least)',
  },
  {
    run: 'trivial, linear decline from 51 by 5 every 30 s (Fig. 5.15a, b)',
    says: 'no step up before demand is down to 6 requests/s, although version 5 could serve 11 below 65 % CPU',
  },
  {
    run: 'trivial, Twitter trace (Fig. 5.16)',
    says: 'a small number of violations where CPU utilisation spikes to 100 %',
  },
] as const;
