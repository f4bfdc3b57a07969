import { NoArbiter } from '../../src/arbiters/none.ts';
import { arbiterContract } from '../contracts/arbiter.ts';

arbiterContract('none', async () => {
  const arbiter = new NoArbiter();
  return await Promise.resolve({
    open: async () => await Promise.resolve(arbiter),
    destroy: async () => {
      await Promise.resolve();
    },
  });
});
