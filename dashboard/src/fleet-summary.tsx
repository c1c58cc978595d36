import type { FleetRecord } from '../../src/orchestrate/fleet/record.ts';
import type { FleetOrchestrator } from '../../src/serve/control/messages.ts';
import { duration, percent, perSecond } from './format.ts';

/** The whole fleet in a few numbers: health, the plan and its reason, the balancer, who orchestrates. */
export function FleetSummary(props: {
  readonly state: FleetRecord;
  readonly orchestrator: FleetOrchestrator;
  readonly nowMs: number;
}) {
  const { state, orchestrator, nowMs } = props;
  const { plan, balancer, servers, tasks } = state;
  const count = (health: string) => servers.filter((server) => server.health === health).length;
  const drained = servers.filter(({ isDrained }) => isDrained).length;
  const demand = tasks.reduce((sum, { arrivalRps }) => sum + (arrivalRps ?? 0), 0);
  const unserved = Object.values(plan.unservedRps).reduce((sum, rps) => sum + rps, 0);
  return (
    <section class="fleet-summary" aria-labelledby="fleet-title">
      <h2 id="fleet-title" class="hidden">
        Fleet
      </h2>
      <dl class="figures">
        <Figure label="Servers up" name="up">
          {count('up')} <span class="sub">of {servers.length}</span>
        </Figure>
        <Figure label="Down" name="down" isBad={count('down') > 0}>
          {count('down')}
        </Figure>
        <Figure label="Drained" name="drained">
          {drained}
        </Figure>
        <Figure label="Demand" name="demand">
          {perSecond(demand)} <span class="sub">/s</span>
        </Figure>
        <Figure label="Unserved" name="unserved" isBad={unserved > 0}>
          {perSecond(unserved)} <span class="sub">/s</span>
        </Figure>
        <Figure label="CPU planned" name="utilization">
          {percent(plan.utilization, 0)}
        </Figure>
        <Figure label="Accuracy, normalised" name="accuracy">
          {percent(plan.accuracy)}
        </Figure>
      </dl>
      <p data-value="plan">
        <b>Plan:</b> {plan.reason}
      </p>
      <p data-value="balancer" class={balancer.error === undefined ? '' : 'bad'}>
        <b>Balancer:</b> {balancer.kind}
        {balancer.error === undefined ? ' routes.' : `, in trouble: ${balancer.error}`}
      </p>
      <p data-value="lease">
        <b>Orchestrator:</b> {holderText(orchestrator, nowMs)}
      </p>
    </section>
  );
}

function Figure(props: {
  readonly label: string;
  readonly name: string;
  readonly isBad?: boolean;
  readonly children: preact.ComponentChildren;
}) {
  return (
    <div>
      <dt>{props.label}</dt>
      <dd data-value={props.name} class={props.isBad ? 'bad' : ''}>
        {props.children}
      </dd>
    </div>
  );
}

/** Who has the lease, and since when. */
export function holderText({ pid, host, term, sinceMs }: FleetOrchestrator, nowMs: number): string {
  if (pid === undefined) return 'nobody has the lease at the moment.';
  const held =
    sinceMs === undefined ? 'holds the lease' : `has held the lease for ${duration(nowMs - sinceMs)}`;
  return `process ${pid} on ${host ?? '?'} ${held}${term === undefined ? '' : ` (term ${term})`}.`;
}
