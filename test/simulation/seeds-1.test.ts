/** The simulation over many seeds, part 1 of 2: part of every test run. */
import { manySeeds } from './many-seeds.ts';

manySeeds(1);
