import { linkContract } from '../contracts/link.ts';
import { memoryLinkPair } from '../../src/links/memory.ts';

linkContract('the memory link', (options) => {
  const { primary, backup, injectIntoBackup } = memoryLinkPair(options);
  return Promise.resolve({ primary, backup, injectIntoBackup, cleanUp: () => Promise.resolve() });
});
