/** Section 5.2.3, Figures 5.4 and 5.5: INFaaS on two vCPUs (AWS t2.medium) against Triton on one of them. */
export const THESIS_INFAAS = {
  /** Requests a second to what has just been started (Figure 5.4). */
  coldRps: 20,
  /** Requests of the first seconds were late or failed, at 20 a second. */
  coldMs: 5_000,
  /** Extrapolated from 65 requests a second at half of the CPU. */
  infaasRps: 130,
  tritonRps: 947,
  ratio: 7.28,
} as const;
