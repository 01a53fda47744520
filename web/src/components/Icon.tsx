const PATHS = {
  plus: "M12 5v14M5 12h14",
  menu: "M4 7h16M4 12h16M4 17h16",
  close: "M6 6l12 12M18 6L6 18",
  pencil: "M4 20h4L19 9l-4-4L4 16zM13 7l4 4",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13M10.5 11v5M13.5 11v5",
  up: "M12 19V5M6 11l6-6 6 6",
  down: "M12 5v14M6 13l6 6 6-6",
  chevron: "M9 6l6 6-6 6",
  back: "M15 6l-6 6 6 6",
  copy: "M9 9h10v11H9zM5 15V4h10",
  check: "M5 13l4 4L19 7",
  again: "M19 12a7 7 0 1 1-2-5M19 4v4h-4",
  tool: "M14 6a4 4 0 0 1 5 5l-9 9-4-4 9-9M14 6l4 4",
  gear: "M4 7h9M17 7h3M4 17h3M11 17h9M15 5v4M9 15v4",
  search: "M11 18a7 7 0 1 0 0-14 7 7 0 0 0 0 14zM16 16l4 4",
  pin: "M9 4h6l-1 6 3 3H7l3-3zM12 13v7",
  dots: "M5 12h.01M12 12h.01M19 12h.01",
  upload: "M12 15V4M7 9l5-5 5 5M5 20h14",
  panel: "M4 5h16v14H4zM10 5v14",
} as const;

export function Icon({ name }: { name: keyof typeof PATHS }) {
  return (
    <svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}

/** The mark: two blocks that are kept, one that is being computed. */
export function Mark() {
  return (
    <svg class="mark" viewBox="0 0 32 32" aria-hidden="true" focusable="false">
      <rect x="4" y="5" width="24" height="6" rx="2" />
      <rect x="4" y="13" width="24" height="6" rx="2" />
      <rect class="mark-open" x="5" y="22" width="22" height="4" rx="1" />
    </svg>
  );
}
