import { describe, expect, it } from 'vitest';
import { backbone } from './registry.ts';
import { decimal, integer, list, optional, parseOptions, required } from './spec.ts';

const FIELDS = {
  sizes: required('of things', list(integer(1, 9))),
  share: optional('of all', decimal(0, 1), 0.5),
};
const parse = (text: string) => parseOptions(`it:${text}`, text, FIELDS);

describe('the options of a spec', () => {
  it('are read by their fields, with fallbacks', () => {
    expect(parse('sizes=1-2-3')).toEqual({ sizes: [1, 2, 3], share: 0.5 });
    expect(parse('share=.25,sizes=9')).toEqual({ sizes: [9], share: 0.25 });
  });

  it.each([
    ['', /"it:" needs sizes= with a list such as A-B-C, each an integer from 1 to 9 \(of things\)/],
    ['share=1', /needs sizes=/],
    ['sizes=1,depth=3', /"depth=3" in backbone "it:sizes=1,depth=3" .* keys sizes, share/],
    ['sizes=1,toString=3', /keys sizes, share/],
    ['sizes', /"sizes" in .* key=value with the keys sizes, share/],
    ['sizes=1,', /"" in .* key=value/],
    ['sizes=1=2', /"sizes=1=2" in .* key=value/],
    ['sizes=1,sizes=2', /gives sizes twice/],
    ['sizes=1-x', /"sizes=1-x" in .* each an integer from 1 to 9/],
    ['sizes=1--2', /each an integer/],
    ['sizes=10', /each an integer from 1 to 9/],
    ['sizes=0x2', /each an integer/],
    ['sizes=', /each an integer/],
    ['sizes=1,share=2', /share= with a number from 0 to 1 \(of all\)/],
    ['sizes=1,share=1e-1', /a number from 0 to 1/],
    ['sizes=1,share=NaN', /a number from 0 to 1/],
  ])('"%s" is refused', (text, complaint) => {
    expect(() => parse(text)).toThrow(complaint);
  });

  it('are refused where they contradict each other', () => {
    expect(() => backbone('resnet:widths=8,blocks=1-1')).toThrow(/widths 8 and blocks 1-1/);
    expect(() => backbone('resnet:widths=1000000')).toThrow(/from 1 to 8192/);
    expect(() => backbone('densenet:growth=512,layers=20-1')).toThrow(
      /Block 1 .* 11264 channels, of 8192 at most/,
    );
  });
});
