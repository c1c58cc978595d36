/** Section 5.5, Tables 5.3 and 5.4. Ratios in [0, 1]. */
export const THESIS_DISTRIBUTED = {
  /** Of the low load; the text gives none for the high one. */
  violationRatio: 0.0072,
  cpu: [
    { server: 'k3s-rpi1_triton_1', low: 0.4353, high: 0.6332 },
    { server: 'k3s-rpi1_triton_2', low: 0.3452, high: 0.525 },
    { server: 'k3s-rpi2_triton_1', low: 0.4171, high: 0.5751 },
  ],
  tasks: [
    { task: 'BeeAnts', low: [0.9201, 0.9709], high: [0.8225, 0.8679] },
    { task: 'CIFAR10', low: [0.809, 0.8631], high: [0.7423, 0.7919] },
    { task: 'CIFAR100', low: [0.5657, 0.8586], high: [0.4473, 0.6789] },
  ],
} as const;
