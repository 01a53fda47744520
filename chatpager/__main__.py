from chatpager.cli import main

main()
