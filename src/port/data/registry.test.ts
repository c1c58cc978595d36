import { expect, it } from 'vitest';
import { dataModule } from './registry.ts';

it('resolves images with options behind the path, which may have commas', async () => {
  const load = (spec: string) => dataModule(spec).load({ seed: 1 });
  await expect(load('images:/no/a,b=c/d,size=64,memory=9')).rejects.toThrow('/no/a,b=c/d.');
  await expect(load('images:/no/such,resize=256')).rejects.toThrow('/no/such.');
  expect(() => dataModule('images:x,size=4')).toThrow(/size is 4, expected an integer from 8/);
  expect(() => dataModule('images:x,size=ten')).toThrow(/size is "ten", expected a whole number/);
  expect(() => dataModule('images:x,width=9')).toThrow(/"width" is none of size, resize, memory/);
  expect(() => dataModule('images:x,memory=4096')).toThrow(/memory is 4096, expected MiB up to 2047/);
});

it('resolves modules by their path and both kinds of CIFAR-100', () => {
  expect(dataModule('./my-data.mjs').name).toBe('./my-data.mjs');
  expect(dataModule('cifar100:x').name).toBe('cifar100');
  expect(dataModule('cifar100-coarse:x').name).toBe('cifar100-coarse');
});

it('resolves the package and IDX folders, and lists what exists for anything else', async () => {
  expect(dataModule('mnist').name).toBe('mnist');
  await expect(dataModule('mnist:/no/such/folder').load({ seed: 1 })).rejects.toMatchObject({
    code: 'missing_dataset',
    message: expect.stringContaining('/no/such/folder'),
  });
  expect(() => dataModule('imagenet')).toThrow(/no data module "imagenet".*"mnist".*"mnist:PATH"/);
  expect(() => dataModule('mnist:')).toThrow(/no data module/);
  expect(() => dataModule('cifar10')).toThrow(/cifar10:PATH.*bonsai download cifar10 --out data/);
  expect(() => dataModule('images')).toThrow(/images:PATH\.$/);
  expect(() => dataModule('/data/cifar')).toThrow(
    /put one of these in front of it, such as images:\/data\/cifar/,
  );
});
