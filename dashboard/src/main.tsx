import 'uplot/dist/uPlot.min.css';
import './style.css';
import { render } from 'preact';
import { App } from './app.tsx';
import { FleetStore } from './fleet-store.ts';
import { Store } from './store.ts';
import { storedTheme, useTheme } from './theme.ts';

useTheme(storedTheme());
const app = document.getElementById('app')!;
app.replaceChildren();
render(<App store={new Store()} fleet={new FleetStore()} />, app);
