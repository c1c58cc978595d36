import { describe, expect, it } from 'vitest';
import {
  parseBytes,
  parseCpus,
  parseDurationMs,
  parseInteger,
  parseMetricsUrl,
  parseServerUrl,
  parseShares,
} from './parse.ts';
import { parsePhases } from './train.ts';

describe('values of options', () => {
  it('are durations with a unit, milliseconds without', () => {
    expect(['400ms', '0.4s', '2h', '90', '1.5 min'].map(parseDurationMs)).toEqual([
      400, 400, 7_200_000, 90, 90_000,
    ]);
    expect(() => parseDurationMs('0ms')).toThrow('Expected a duration above 0');
    expect(() => parseDurationMs('soon')).toThrow('Expected a duration above 0 such as 400ms');
  });

  it('are sizes with a unit, bytes without', () => {
    expect(['2GB', '500 MB', '1.5GiB', '4096', '10k'].map(parseBytes)).toEqual([
      2e9, 5e8, 1_610_612_736, 4096, 10_000,
    ]);
    for (const wrong of ['0', 'much', '2 GHz', '-1MB', ''])
      expect(() => parseBytes(wrong)).toThrow('Expected a size');
  });

  it('are CPUs in any order, each once', () => {
    expect(parseCpus('3,0-1,1')).toEqual([0, 1, 3]);
    for (const wrong of ['', 'a', '2-1', '-1', '0-99999']) expect(() => parseCpus(wrong)).toThrow();
  });

  it('are integers within bounds', () => {
    expect(parseInteger(0, 10)('7')).toBe(7);
    for (const wrong of ['11', '-1', '1.5', '', 'x'])
      expect(() => parseInteger(0, 10)(wrong)).toThrow('from 0 to 10');
  });

  it('are shares strictly between 0 and 1', () => {
    expect(parseShares('0.25,0.5')).toEqual([0.25, 0.5]);
    for (const wrong of ['0', '1', '0.5,', 'half']) expect(() => parseShares(wrong)).toThrow('shares');
  });

  it('are epochs at a resolution each', () => {
    expect(parsePhases('4@0.5,1')).toEqual([
      { epochs: 4, resolution: 0.5 },
      { epochs: 1, resolution: undefined },
    ]);
    expect(parsePhases('0.5@1')).toEqual([{ epochs: 0.5, resolution: 1 }]);
    for (const wrong of ['', '0', '1@2', 'x', '1@0.5@1', 'Infinity'])
      expect(() => parsePhases(wrong)).toThrow('Expected epochs');
  });

  it('are epochs that end at the full resolution', () => {
    for (const wrong of ['6@0.5', '1,6@0.5'])
      expect(() => parsePhases(wrong)).toThrow(`such as --epochs ${wrong},2.`);
  });
});

describe('addresses of servers', () => {
  it('are the root of a host, without what requests would not go by', () => {
    expect(parseServerUrl('http://edge-box:8000/')).toBe('http://edge-box:8000');
    expect(parseServerUrl('https://[::1]')).toBe('https://[::1]');
    for (const more of ['/triton', '/?a=b', '/#x'])
      expect(() => parseServerUrl(`http://edge-box:8000${more}`)).toThrow(
        'expected an address such as http://edge-box:8000.',
      );
    expect(() => parseServerUrl('http://u:p@edge-box:8000')).toThrow('more than host and port');
    expect(parseMetricsUrl('http://edge-box:8002/metrics')).toBe('http://edge-box:8002');
    expect(() => parseMetricsUrl('http://edge-box:8002/other')).toThrow('more than host and port');
    for (const wrong of ['', 'edge-box:8000', 'ftp://edge-box'])
      expect(() => parseServerUrl(wrong)).toThrow();
  });
});
