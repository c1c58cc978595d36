import { describe, expect, it } from 'vitest';
import { availableCores, slotsOf } from './cpu-budget.ts';

const files = (contents: Record<string, string>) => (path: string) => contents[path];

describe('the CPU budget', () => {
  it('is the affinity where no quota is set', () => {
    expect(availableCores(files({}), 4)).toBe(4);
    const unbounded = { '/proc/self/cgroup': '0::/\n', '/sys/fs/cgroup/cpu.max': 'max 100000\n' };
    expect(availableCores(files(unbounded), 4)).toBe(4);
  });

  it('is bounded by the smallest quota from its group up to the root (v2)', () => {
    const nested = {
      '/proc/self/cgroup': '0::/pods/a\n',
      '/sys/fs/cgroup/pods/a/cpu.max': '300000 100000\n',
      '/sys/fs/cgroup/pods/cpu.max': '150000 100000\n',
    };
    expect(availableCores(files(nested), 8)).toBe(1.5);
  });

  it('finds the quota of a container, which sees its group as the root (v1 and v2)', () => {
    const v2 = { '/proc/self/cgroup': '0::/docker/abc\n', '/sys/fs/cgroup/cpu.max': '50000 100000\n' };
    expect(availableCores(files(v2), 8)).toBe(0.5);
    const v1 = {
      '/proc/self/cgroup': '4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n',
      '/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us': '200000\n',
      '/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us': '100000\n',
    };
    expect(availableCores(files(v1), 8)).toBe(2);
    expect(availableCores(files({ ...v1, '/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us': '-1\n' }), 8)).toBe(
      8,
    );
  });

  it('gives whole slots, at least one', () => {
    expect([slotsOf(0.5, 1), slotsOf(3.5, 1), slotsOf(4, 2), slotsOf(1, 4)]).toEqual([1, 3, 2, 1]);
  });
});
