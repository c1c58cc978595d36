import { expect, it } from 'vitest';
import { dataModule } from './registry.ts';

it('resolves the package and IDX folders, and lists what exists for anything else', async () => {
  expect(dataModule('mnist').name).toBe('mnist');
  await expect(dataModule('mnist:/no/such/folder').load({ seed: 1 })).rejects.toMatchObject({
    code: 'missing_dataset',
    message: expect.stringContaining('/no/such/folder'),
  });
  expect(() => dataModule('imagenet')).toThrow(/no data module "imagenet".*"mnist".*"mnist:PATH"/);
  expect(() => dataModule('mnist:')).toThrow(/no data module/);
});
