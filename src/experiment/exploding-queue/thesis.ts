/** Section 5.3, on Figure A.1: of eleven versions of CIFAR-10, how many queues explode at a share of the profiled maximum. */
export const THESIS_EXPLOSIONS = { versions: 11, at105: 7, at110: 10 } as const;
