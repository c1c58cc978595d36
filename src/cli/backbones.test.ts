import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { BACKBONES, backbone, FAMILIES } from '../port/backbones/registry.ts';
import { backbonesText, listBackbone, MAX_IMAGE_SIDE, parseImageShape } from './backbones.ts';

describe('the listing of backbones', () => {
  it('counts what a convolution of a ResNet holds and does', () => {
    // Stem 9·3·4 and BatchNormalization 4·4; two convolutions 9·4·4 with the same; head 4·5 + 5.
    const parameters = 9 * 3 * 4 + 16 + 2 * (9 * 16 + 16) + 4 * 5 + 5;
    // The convolutions at 8×6 pixels, each with a BatchNormalization that scales its 4 channels, and the head.
    const macs = (9 * 3 * 4 + 2 * 9 * 16 + 3 * 4) * 48 + 4 * 5;
    expect(listBackbone('resnet:widths=4', [3, 8, 6], 5)).toEqual({
      name: 'resnet:widths=4',
      spec: 'resnet:widths=4',
      parameters,
      macs,
    });
  });

  it('says what a name stands for, whatever its spelling', () => {
    expect(listBackbone('ResNet20', [1, 28, 28], 10)).toMatchObject({
      name: 'resnet-20',
      spec: BACKBONES['resnet-20'],
    });
  });

  it('shows backbones that the images are too small for, and why', () => {
    const listed = ['resnet-8', 'mobilenet-0.25'].map((spec) => listBackbone(spec, [3, 8, 8], 10));
    expect(listed[0]!.unfit).toBeUndefined();
    expect(listed[1]).toMatchObject({ unfit: expect.stringMatching(/8×8 pixels are too small/) });
    const text = backbonesText(listed, []);
    expect(text).toMatch(/^mobilenet-0\.25 +– +– {2}mobilenet:width=0\.25$/m);
    expect(text).toContain(listed[1]!.unfit);
  });

  it('explains every option of every family, whose example is a backbone', () => {
    const text = backbonesText([], FAMILIES);
    for (const { name, example, fields } of FAMILIES) {
      expect(text).toContain(`${name}: such as ${example}`);
      expect(backbone(example).name).toBe(example);
      for (const { meaning } of Object.values(fields)) expect(text).toContain(meaning);
    }
    expect(text).toMatch(/^ {2}growth .*required\)$/m);
    expect(text).toMatch(/^ {2}compression .*default 0\.5\)$/m);
  });

  it('stands in the documentation as the command prints it', () => {
    const listed = Object.keys(BACKBONES).map((name) => listBackbone(name, [3, 32, 32], 10));
    const document = readFileSync(new URL('../../docs/backbones.md', import.meta.url), 'utf8');
    expect(document).toContain(`\`\`\`\n${backbonesText(listed, FAMILIES)}\n\`\`\``);
  });
});

describe('the shape of images', () => {
  it('is channels, height and width', () => {
    expect(parseImageShape('1x28x30')).toEqual([1, 28, 30]);
  });

  it.each([
    '',
    '3x32',
    '3x32x32x1',
    '3x0x32',
    '3×32×32',
    `3x${MAX_IMAGE_SIDE + 1}x32`,
    '-3x32x32',
    '3x32.5x32',
  ])('is refused as "%s"', (text) => {
    expect(() => parseImageShape(text)).toThrow(/such as 3x32x32/);
  });
});
